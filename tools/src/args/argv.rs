//! From llama.cpp's way of writing flags to clap's: `-ngl 99`, `-n -1`, `--no-escape`, a bare `-co`.
//!
//! A visible alias of an argument is a spelling with one dash (`-ub`), a hidden alias one with two (`--n-predict`).
//! Every flag is handed to clap as `--long=value`, so that a value may begin with a dash.

use super::absent::{Absent, Policy, Takes};
use super::value::is_switch;
use clap::{Arg, Command};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

/// What can be wrong before clap looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgvError {
    /// The command line is wrong.
    Usage(String),
    /// The flag is known, but what it asks for is not here.
    Unsupported(String),
}

/// Arguments for clap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argv {
    /// With the program's name at the front.
    pub args: Vec<OsString>,
    /// About flags without effect.
    pub warnings: Vec<String>,
}

/// Spellings of their own that say no to a switch.
const NEGATIVE: [(&str, &str); 1] = [("repack", "-nr")];

enum Target<'a> {
    /// An argument, with the value that the spelling implies.
    Known(&'a Arg, Option<&'static str>),
    Absent(&'static Absent),
}

/// All spellings of an argument with one or two dashes, and what each implies.
pub fn spellings(arg: &Arg) -> Vec<(String, Option<&'static str>)> {
    let switch = is_switch(arg);
    let implied = switch.then_some("true");
    let mut all: Vec<_> = arg.get_short().map(|c| (format!("-{c}"), implied)).into_iter().collect();
    let one_dash = arg.get_visible_aliases().unwrap_or_default();
    let two_dashes = arg.get_long().into_iter().chain(arg.get_aliases().unwrap_or_default());
    let names = one_dash.into_iter().map(|name| ("-", name)).chain(two_dashes.map(|name| ("--", name)));
    for (dashes, name) in names {
        all.push((format!("{dashes}{name}"), implied));
        let negative = NEGATIVE.iter().filter(|(long, _)| switch && *long == name);
        all.extend(negative.map(|(_, spelling)| (spelling.to_string(), Some("false"))));
        if switch {
            all.push((format!("{dashes}no-{name}"), Some("false")));
        }
    }
    all
}

/// Brings `argv` into the form that `command` understands, and applies the policies of what is `absent`.
///
/// # Errors
/// For flags that are refused, and for unknown ones with a single dash, which clap would take apart.
pub fn normalize(
    command: &Command,
    absent: &'static [Absent],
    argv: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Argv, ArgvError> {
    let mut index: HashMap<String, Target> = HashMap::new();
    for row in absent {
        index.extend(row.spellings.iter().map(|&s| (s.to_string(), Target::Absent(row))));
    }
    for arg in command.get_arguments().filter(|a| !a.is_positional()) {
        index.extend(spellings(arg).into_iter().map(|(s, implied)| (s, Target::Known(arg, implied))));
    }
    let mut argv = argv.into_iter();
    let mut out = Argv { args: argv.next().into_iter().collect(), warnings: Vec::new() };
    let mut given: Vec<&'static str> = Vec::new();
    let mut argv = argv.peekable();
    while let Some(token) = argv.next() {
        let Some((flag, attached)) = flag_of(&token) else {
            let last = token == "--";
            out.args.push(token);
            if last {
                out.args.extend(argv.by_ref());
            }
            continue;
        };
        // llama.cpp takes underscores in flags with two dashes for hyphens.
        let hyphens = || index.get(&flag.replace('_', "-")).filter(|_| flag.starts_with("--"));
        match index.get(flag).or_else(hyphens) {
            Some(&Target::Known(arg, implied)) => {
                let value = attached.map(OsString::from).or_else(|| implied.map(OsString::from));
                let value = value.or_else(|| value_of(arg, &mut argv));
                let value = value.map(|value| with_scale(arg, value, &mut argv));
                out.args.push(for_clap(arg, value));
            }
            Some(Target::Absent(row)) => {
                given.extend(row.spellings.first());
                let value = absent_value(row, flag, attached, &mut argv)?;
                out.warnings.extend(row.apply(flag, &value).map_err(ArgvError::Unsupported)?);
            }
            None if flag.starts_with("--") || flag.len() == 2 => out.args.push(token),
            None => {
                return Err(ArgvError::Usage(format!("unexpected argument '{flag}' found")));
            }
        }
    }
    for row in absent.iter().filter(|r| !r.env.is_empty() && !r.spellings.first().is_some_and(|s| given.contains(s))) {
        if let Some(value) = env(row.env) {
            row.apply_env(&value.to_string_lossy()).map_err(ArgvError::Unsupported)?;
        }
    }
    Ok(out)
}

/// The flag in a token, and the value after its `=`. Negative numbers are no flags.
fn flag_of(token: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    // A value need not be UTF-8, its flag is.
    let bytes = token.as_encoded_bytes();
    let end = bytes.iter().position(|&b| b == b'=').unwrap_or(bytes.len());
    let flag = std::str::from_utf8(&bytes[..end]).ok()?;
    let name = flag.strip_prefix('-')?;
    if name.is_empty()
        || flag == "--"
        || name.parse::<f64>().is_ok_and(|_| name.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
    {
        return None;
    }
    // Cut as text where it is text; an attached value with other bytes is left for clap to refuse.
    let attached = token.to_str().and_then(|s| s.get(end + 1..)).map(OsStr::new);
    (end == bytes.len() || attached.is_some()).then_some((flag, attached))
}

/// The next token, if the argument takes one.
fn value_of(arg: &Arg, argv: &mut std::iter::Peekable<impl Iterator<Item = OsString>>) -> Option<OsString> {
    if !arg.get_action().takes_values() {
        return None;
    }
    let optional = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
    if !optional {
        return argv.next();
    }
    let possible = arg.get_possible_values();
    argv.next_if(|token| possible.iter().any(|v| token.to_str().is_some_and(|t| v.matches(t, false))))
}

/// `FILE SCALE`, the older form of `FILE:SCALE`, as that. For arguments that take up to two values.
fn with_scale(arg: &Arg, value: OsString, argv: &mut std::iter::Peekable<impl Iterator<Item = OsString>>) -> OsString {
    let is_number = |text: &str| text.parse::<f32>().is_ok();
    let has_scale = value.to_str().is_some_and(|v| v.rsplit_once(':').is_some_and(|(_, scale)| is_number(scale)));
    if has_scale || arg.get_num_args().is_none_or(|n| n.max_values() != 2) {
        return value;
    }
    match argv.next_if(|token| token.to_str().is_some_and(is_number)) {
        Some(scale) => [value, ":".into(), scale].into_iter().collect(),
        None => value,
    }
}

fn for_clap(arg: &Arg, value: Option<OsString>) -> OsString {
    let mut out = OsString::from("--");
    out.push(arg.get_long().unwrap_or_default());
    if let Some(value) = value {
        out.push("=");
        out.push(value);
    }
    out
}

fn absent_value(
    row: &Absent,
    flag: &str,
    attached: Option<&OsStr>,
    argv: &mut std::iter::Peekable<impl Iterator<Item = OsString>>,
) -> Result<String, ArgvError> {
    let text = |value: &OsStr| value.to_string_lossy().into_owned();
    if let Some(value) = attached {
        return Ok(text(value));
    }
    let n = match row.takes {
        Takes::Nothing => 0,
        Takes::Value => 1,
        Takes::Two => 2,
        Takes::Optional(values) => {
            let value = argv.next_if(|token| values.iter().any(|v| token == v));
            return Ok(value.map(|v| text(&v)).unwrap_or_default());
        }
    };
    let values: Vec<_> = argv.by_ref().take(n).map(|v| text(&v)).collect();
    // A flag that is refused anyway is refused for the better reason.
    if values.len() < n && !matches!(row.policy, Policy::Refused(_)) {
        return Err(ArgvError::Usage(format!("a value is required for '{flag}' but none was supplied")));
    }
    Ok(values.join(" "))
}

#[cfg(test)]
mod tests {
    use super::super::absent::MAIN;
    use super::*;
    use clap::CommandFactory;

    fn normalized(argv: &[&str], env: &[(&str, &str)]) -> Result<(Vec<String>, Vec<String>), ArgvError> {
        let mut command = crate::cmd::main::MainArgs::command();
        command.build();
        let argv = std::iter::once("x").chain(argv.iter().copied()).map(OsString::from);
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        let out = normalize(&command, MAIN, argv, env)?;
        Ok((out.args[1..].iter().map(|a| a.to_str().unwrap().into()).collect(), out.warnings))
    }

    fn args(argv: &[&str]) -> Vec<String> {
        normalized(argv, &[]).unwrap().0
    }

    #[test]
    fn spellings_of_llama_cpp_become_those_of_clap() {
        assert_eq!(args(&["-n", "-1", "-ub", "64", "-c", "0"]), ["--predict=-1", "--ubatch-size=64", "--ctx-size=0"]);
        assert_eq!(args(&["--n-predict", "5", "--temp", "-1"]), ["--predict=5", "--temp=-1"]);
        assert_eq!(
            args(&["-cnv", "-st", "-sys", "-x"]),
            ["--conversation=true", "--single-turn", "--system-prompt=-x"]
        );
        assert_eq!(
            args(&["-no-cnv", "--no-escape", "-e"]),
            ["--conversation=false", "--escape=false", "--escape=true"]
        );
        assert_eq!(
            args(&["--n_predict", "5", "--top_k=1", "-p", "--a_b"]),
            ["--predict=5", "--top-k=1", "--prompt=--a_b"]
        );
        assert_eq!(args(&["--no_such", "5"]), ["--no_such", "5"]);
        assert_eq!(args(&["-nr", "--repack", "--no-repack"]), ["--repack=false", "--repack=true", "--repack=false"]);
        assert_eq!(args(&["-p", "--temp", "-p="]), ["--prompt=--temp", "--prompt="]);
        assert_eq!(
            args(&["--help", "-h", "--nonsense", "5", "-5", "-"]),
            ["--help", "--help", "--nonsense", "5", "-5", "-"]
        );
        assert_eq!(args(&["-p"]), ["--prompt"], "clap says that the value is missing");
        assert_eq!(args(&["--", "-n", "-ngl"]), ["--", "-n", "-ngl"]);
    }

    #[test]
    fn an_optional_value_is_taken_only_if_it_is_one() {
        assert_eq!(args(&["-co", "-i"]), ["--color", "--interactive"]);
        assert_eq!(args(&["-co", "off", "-i"]), ["--color=off", "--interactive"]);
        let (left, warnings) = normalized(&["-fa", "-n", "1", "-fa", "on", "-sm", "layer"], &[]).unwrap();
        assert_eq!(left, ["--predict=1"]);
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].starts_with("-fa has no effect"), "{warnings:?}");
    }

    #[test]
    fn a_scale_may_follow_its_adapter() {
        assert_eq!(args(&["--lora-scaled", "a.gguf", "0.5", "-i"]), ["--lora-scaled=a.gguf:0.5", "--interactive"]);
        assert_eq!(args(&["--lora-scaled", "a.gguf", "-1"]), ["--lora-scaled=a.gguf:-1"]);
        assert_eq!(args(&["--lora-scaled", "a:2,b:.5", "7"]), ["--lora-scaled=a:2,b:.5", "7"]);
        assert_eq!(args(&["--lora-scaled=C:\\a.gguf", "2"]), ["--lora-scaled=C:\\a.gguf:2"]);
        assert_eq!(args(&["--lora-scaled", "a.gguf", "-n", "1"]), ["--lora-scaled=a.gguf", "--predict=1"]);
        assert_eq!(args(&["--lora", "a.gguf", "0.5"]), ["--lora=a.gguf", "0.5"]);
    }

    #[test]
    fn what_would_change_the_output_is_refused() {
        for argv in [&["-gan", "2"][..], &["--log-jsonl"], &["-hf", "a/b"], &["--control-vector"]] {
            assert!(matches!(normalized(argv, &[]), Err(ArgvError::Unsupported(_))), "{argv:?}");
        }
        assert_eq!(normalized(&["-gan", "1", "-gan=1", "--offline"], &[]), Ok((vec![], vec![])));
        assert!(matches!(normalized(&["-gan"], &[]), Err(ArgvError::Usage(_))));
        assert!(matches!(normalized(&["-xyz"], &[]), Err(ArgvError::Usage(_))));
        assert!(matches!(normalized(&["-t4"], &[]), Err(ArgvError::Usage(_))));
    }

    #[test]
    fn the_environment_is_held_to_the_same_rules() {
        let refused = |env| matches!(normalized(&[], &[env]), Err(ArgvError::Unsupported(_)));
        assert!(refused(("LLAMA_ARG_GRP_ATTN_N", "2")));
        assert!(!refused(("LLAMA_ARG_GRP_ATTN_N", "1")));
        assert!(refused(("LLAMA_ARG_MMPROJ", "a.gguf")));
        assert!(!refused(("LLAMA_ARG_OFFLINE", "on")));
        assert_eq!(normalized(&[], &[("LLAMA_ARG_SPLIT_MODE", "layer")]), Ok((vec![], vec![])));
        let command_line_wins = normalized(&["-gan", "1"], &[("LLAMA_ARG_GRP_ATTN_N", "2")]);
        assert_eq!(command_line_wins, Ok((vec![], vec![])));
    }
}
