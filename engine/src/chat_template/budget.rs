//! Limits on what a template may compute: templates come with model files and are not trusted.
//!
//! Fuel bounds the number of instructions, but a single instruction can double a string or walk a list that contains
//! itself many times. So every operation whose cost depends on its operands is compiled to a call of a function from
//! here, which first pays for the size of the operands and of the result from one budget per rendering.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use minijinja::functions;
use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, context};

/// Deepest nesting of lists and mappings that operations accept.
const MAX_DEPTH: usize = 64;
/// Most `namespace` objects of one rendering; they can refer to each other and so form long chains.
const MAX_NAMESPACES: u64 = 64;
/// What a list or mapping element costs, in bytes.
const ELEMENT_COST: u64 = 16;

/// What one rendering may still spend.
#[derive(Clone)]
pub(super) struct Budget {
    bytes: Arc<AtomicU64>,
    namespaces: Arc<AtomicU64>,
}

fn over_limit(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("the template exceeds the limit on {what}"))
}

fn spend(counter: &AtomicU64, cost: u64, what: &str) -> Result<(), Error> {
    counter
        .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(cost))
        .map_err(|_| over_limit(what))?;
    Ok(())
}

fn int(value: &Value) -> u64 {
    value.as_usize().map_or(0, |n| n as u64)
}

fn length(value: &Value) -> u64 {
    let n = value.as_str().map(str::len).or_else(|| value.len());
    n.map_or(0, |n| n as u64)
}

impl Budget {
    pub fn new(bytes: u64) -> Self {
        Self { bytes: Arc::new(AtomicU64::new(bytes)), namespaces: Arc::new(AtomicU64::new(MAX_NAMESPACES)) }
    }

    /// Pays for `cost` bytes of work or memory.
    pub fn pay(&self, cost: u64) -> Result<(), Error> {
        spend(&self.bytes, cost, "memory and time")
    }

    /// Pays for everything reachable from a value, as often as it is reachable.
    pub fn pay_deep(&self, value: &Value) -> Result<(), Error> {
        self.pay_nested(value, 0)
    }

    fn pay_nested(&self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(over_limit("nesting of values"));
        }
        self.pay(ELEMENT_COST)?;
        match value.kind() {
            ValueKind::String | ValueKind::Bytes => self.pay(length(value)),
            ValueKind::Map => {
                for key in value.try_iter()? {
                    self.pay_nested(&key, depth + 1)?;
                    self.pay_nested(&value.get_item(&key)?, depth + 1)?;
                }
                Ok(())
            }
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()? {
                    self.pay_nested(&item, depth + 1)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Pays for a string, or for the elements of a list or mapping without their content.
    fn pay_shallow(&self, value: &Value) -> Result<(), Error> {
        let unit = if value.as_str().is_some() { 1 } else { ELEMENT_COST };
        self.pay(unit.saturating_mul(length(value)).saturating_add(ELEMENT_COST))
    }

    fn pay_args(&self, args: &[Value], deep: bool) -> Result<(), Error> {
        args.iter().try_for_each(|arg| if deep { self.pay_deep(arg) } else { self.pay_shallow(arg) })
    }

    /// Pays in advance for filters and methods whose result can be much larger than their operands.
    fn pay_growth(&self, name: &str, args: &[Value]) -> Result<(), Error> {
        let n = |i: usize| args.get(i).map_or(0, length);
        let cost = match name {
            "join" => n(0).saturating_mul(n(1)),
            "replace" => (n(0) / n(1).max(1)).saturating_add(1).saturating_mul(n(2)),
            "format" => {
                let digits = args.iter().filter_map(Value::as_str).flat_map(numbers);
                let widths = digits.chain(args.iter().map(int));
                widths.fold(0, u64::saturating_add)
            }
            // widths of center, indent, batch, ... apply to each line or element
            _ => {
                let widths = args.iter().skip(1).map(int).fold(0, u64::saturating_add);
                widths.saturating_mul(n(0).saturating_add(1))
            }
        };
        self.pay(cost)
    }
}

/// The decimal numbers in a format string.
fn numbers(text: &str) -> impl Iterator<Item = u64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX))
}

/// Operators whose cost depends on their operands, as expressions over `a`, `b`, `c` and `d`.
const OPERATORS: [&str; 10] =
    ["a + b", "a * b", "a in b", "a == b", "a != b", "a < b", "a <= b", "a > b", "a >= b", "a[b:c:d]"];

fn operator(instruction: &Instruction) -> Option<&'static str> {
    Some(match instruction {
        Instruction::Add => "a + b",
        Instruction::Mul => "a * b",
        Instruction::In => "a in b",
        Instruction::Eq => "a == b",
        Instruction::Ne => "a != b",
        Instruction::Lt => "a < b",
        Instruction::Lte => "a <= b",
        Instruction::Gt => "a > b",
        Instruction::Gte => "a >= b",
        Instruction::Slice => "a[b:c:d]",
        _ => return None,
    })
}

/// Filters and methods that look at one element, or only at the length, of a list or mapping.
const SHALLOW: [&str; 15] = [
    "length", "count", "first", "last", "default", "d", "safe", "list", "items", "keys", "values", "get", "reverse",
    "random", "bool",
];

/// Tests that compare values; the others only look at the type.
const COMPARING_TESTS: [&str; 18] = [
    "eq",
    "==",
    "equalto",
    "ne",
    "!=",
    "lt",
    "<",
    "lessthan",
    "le",
    "<=",
    "gt",
    ">",
    "greaterthan",
    "ge",
    ">=",
    "in",
    "sameas",
    "containing",
];

/// The function that a template's filter, test or method is compiled to: its name with a sign in front, which no
/// template can write.
fn guarded_name(instruction: &Instruction) -> Option<String> {
    match instruction {
        Instruction::ApplyFilter(name, ..) => Some(format!("|{name}")),
        Instruction::CallMethod(name, _) => Some(format!(".{name}")),
        Instruction::PerformTest(name, ..) if COMPARING_TESTS.contains(name) => Some(format!("?{name}")),
        _ => None,
    }
}

/// The guarded names that the instructions will call.
pub(super) fn guarded_names<'a>(all: impl Iterator<Item = &'a Instructions<'a>>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for instructions in all {
        names.extend((0u32..).map_while(|i| instructions.get(i)).filter_map(guarded_name));
    }
    names
}

/// Replaces the operations whose cost depends on their operands by calls of the functions of [`register`].
pub(super) fn guard_instructions<'a>(
    instructions: &mut Instructions<'a>,
    names: &'a BTreeSet<String>,
) -> Result<(), (usize, &'static str)> {
    let mut index = 0u32;
    while let Some(instruction) = instructions.get(index) {
        let guarded = guarded_name(instruction).and_then(|name| names.get(&name));
        let call = match (instruction, guarded) {
            (
                Instruction::ApplyFilter(_, n, _) | Instruction::CallMethod(_, n) | Instruction::PerformTest(_, n, _),
                Some(name),
            ) => Some((name.as_str(), *n)),
            (Instruction::StringConcat, _) => Some(("a ~ b", Some(2))),
            (Instruction::BuildList(Some(n)), _) => u16::try_from(*n).ok().map(|n| ("[]", Some(n))),
            (Instruction::BuildTuple(Some(n)), _) => u16::try_from(*n).ok().map(|n| ("()", Some(n))),
            (Instruction::BuildMap(n), _) => u16::try_from(2 * n).ok().map(|n| ("{}", Some(n))),
            (Instruction::Slice, _) => Some(("a[b:c:d]", Some(4))),
            (Instruction::CompareAndPreserve(_), _) => {
                let line = instructions.get_line(index).unwrap_or(0);
                return Err((line, "chained comparisons are not supported"));
            }
            (other, _) => operator(other).map(|name| (name, Some(2))),
        };
        if let (Some((name, n)), Some(slot)) = (call, instructions.get_mut(index)) {
            *slot = Instruction::CallFunction(name, n);
        }
        index += 1;
    }
    Ok(())
}

/// Adds the functions that guarded instructions call, and guarded versions of the built-in functions.
pub(super) fn register(env: &mut Environment, budget: &Budget, names: &BTreeSet<String>) {
    register_operators(env, budget);
    for name in names {
        let Some((sign, plain)) = name.split_at_checked(1) else {
            continue;
        };
        let (sign, plain, budget) = (sign.to_owned(), plain.to_owned(), budget.clone());
        env.add_function(name.clone(), move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            budget.pay_args(&args, !SHALLOW.contains(&plain.as_str()))?;
            budget.pay_growth(&plain, &args)?;
            let result = match (sign.as_str(), args.split_first()) {
                ("|", _) => state.apply_filter(&plain, &args),
                (".", Some((object, args))) => object.call_method(state, &plain, args),
                _ => state.perform_test(&plain, &args).map(Value::from),
            }
            .map_err(|err| match err.kind() {
                ErrorKind::UnknownFilter | ErrorKind::UnknownTest => Error::new(err.kind(), format!("'{plain}'")),
                _ => err,
            })?;
            budget.pay_shallow(&result)?;
            Ok::<Value, Error>(result)
        });
    }
}

fn register_operators(env: &mut Environment, budget: &Budget) {
    for name in OPERATORS {
        let budget = budget.clone();
        let shallow = matches!(name, "a + b" | "a[b:c:d]");
        env.add_function(name, move |args: Rest<Value>| {
            budget.pay_args(&args, !shallow)?;
            let arg = |i: usize| args.get(i).cloned().unwrap_or_default();
            let (a, b) = (arg(0), arg(1));
            if name == "a * b" {
                let cost = |s: &Value, n: &Value| length(s).saturating_mul(int(n)).saturating_mul(ELEMENT_COST);
                budget.pay(cost(&a, &b).saturating_add(cost(&b, &a)))?;
            }
            // both are strings in nearly every template
            if let ("a + b", Some(a), Some(b)) = (name, a.as_str(), b.as_str()) {
                return Ok(Value::from([a, b].concat()));
            }
            let equal = matches!(name, "a == b" | "a != b") && a.as_str().is_some() && b.as_str().is_some();
            if equal {
                return Ok(Value::from((a == b) == (name == "a == b")));
            }
            if let Some(step) = arg(3).as_i64().filter(|&step| name == "a[b:c:d]" && step < 0)
                && let Some(slice) = super::functions::slice_backwards(&a, &b, &arg(2), step)?
            {
                return Ok(slice);
            }
            PLAIN.compile_expression(name)?.eval(context!(a => a, b => b, c => arg(2), d => arg(3)))
        });
    }
    let paying = budget.clone();
    env.add_function("a ~ b", move |args: Rest<Value>| {
        paying.pay_args(&args, true)?;
        let text: String = args.iter().map(Value::to_string).collect();
        Ok::<String, Error>(text)
    });
    let paying = budget.clone();
    env.add_function("[]", move |args: Rest<Value>| {
        paying.pay_args(&args, true)?;
        Ok::<Value, Error>(Value::from(args.0))
    });
    let paying = budget.clone();
    env.add_function("()", move |args: Rest<Value>| {
        paying.pay_args(&args, true)?;
        Ok::<Value, Error>(Value::from(Tuple::from(args.0)))
    });
    let paying = budget.clone();
    env.add_function("{}", move |args: Rest<Value>| {
        paying.pay_args(&args, true)?;
        let pairs = args.as_chunks::<2>().0.iter();
        Ok::<Value, Error>(Value::from_pairs(pairs.map(|[k, v]| (k.clone(), v.clone()))))
    });
    let paying = budget.clone();
    env.add_function("namespace", move |defaults: Option<ValueOrKwargs>| {
        spend(&paying.namespaces, 1, "the number of namespaces")?;
        functions::namespace(defaults)
    });
    let paying = budget.clone();
    env.add_function("dict", move |value: Option<Value>, kwargs: Kwargs| {
        let update: Vec<Value> = kwargs.args().map(|name| kwargs.get(name)).collect::<Result<_, _>>()?;
        paying.pay_args(value.as_slice(), true)?;
        paying.pay_args(&update, true)?;
        functions::dict(value, kwargs)
    });
    let paying = budget.clone();
    env.add_function("range", move |lower: isize, upper: Option<isize>, step: Option<isize>| {
        let result = functions::range(lower, upper, step)?;
        paying.pay_shallow(&result)?;
        Ok::<Value, Error>(result)
    });
    let paying = budget.clone();
    env.set_formatter(move |out, state, value| {
        paying.pay_deep(value)?;
        minijinja::escape_formatter(out, state, value)
    });
}

/// Evaluates the operators themselves.
static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::empty);

/// The longest text that one instruction of a template prints as it stands, in bytes.
pub(super) fn longest_literal<'a>(all: impl Iterator<Item = &'a Instructions<'a>>) -> u64 {
    all.flat_map(|instructions| (0u32..).map_while(|i| instructions.get(i)))
        .map(|instruction| match instruction {
            Instruction::EmitRaw(text) => text.len() as u64,
            _ => 0,
        })
        .max()
        .unwrap_or(0)
}
