//! Operations over the elements or rows of f32 tensors: include/tensors.glsl.

use super::WORKGROUP;
use crate::pipelines::Constants;
use crate::shaders::Shader;
use crate::step::{Compiler, Parameters, Phase, Step, Tensor, from_base};
use crate::tiling::Follow;
use ggml_ops::OpError;
use ggml_ops::ops::{GluKind, Rope, RopeMode};

/// How the work is shared out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// An invocation for each element, whose operands are elements.
    Elements,
    /// An invocation for each element, whose operands are rows.
    ElementsOfRows,
    /// A workgroup for each row.
    Rows,
}

struct Kernel {
    shader: Shader,
    work: Work,
    constants: Constants,
    /// The shader's one number.
    f: f32,
}

impl Kernel {
    fn new(shader: Shader, work: Work) -> Kernel {
        Kernel { shader, work, constants: [0; 3], f: 0.0 }
    }

    fn kind(self, kind: u32) -> Kernel {
        Kernel { constants: [kind, 0, 0], ..self }
    }

    fn with(self, f: f32) -> Kernel {
        Kernel { f, ..self }
    }
}

/// The strides by which an operand follows the result's coordinates; what is shorter repeats.
fn follows(t: &Tensor, work: Work) -> Vec<Follow> {
    let repeat = |d: usize| Follow { stride: t.nb(d), div: 1, modulo: t.ne(d).max(1) };
    let first = if work == Work::Elements { repeat(0) } else { Follow::NOT };
    vec![first, repeat(1), repeat(2), repeat(3)]
}

fn compile(c: &Compiler, kernel: Kernel) -> Result<Vec<Phase>, OpError> {
    let tensors: Vec<&Tensor> = std::iter::once(&c.dst).chain(&c.src).collect();
    let follows: Vec<_> = tensors.iter().map(|t| follows(t, kernel.work)).collect();
    steps(c, kernel, &tensors, follows, |_, _| ())
}

/// One step for each tile; `more` may change the parameters of the operands.
fn steps(
    c: &Compiler,
    kernel: Kernel,
    tensors: &[&Tensor],
    follows: Vec<Vec<Follow>>,
    more: impl Fn(&mut [[u64; 8]; 4], usize),
) -> Result<Vec<Phase>, OpError> {
    let whole_rows = kernel.work != Work::Elements;
    let operands: Vec<_> = tensors
        .iter()
        .zip(follows)
        .map(|(t, follows)| t.operand(follows, if whole_rows { t.ne(0).max(1) * 4 } else { 4 }))
        .collect();
    let mut out = Vec::new();
    for tile in c.tiles(&[0, 1, 2, 3].map(|d| tensors[0].ne(d)), &operands)? {
        let mut bindings = Vec::new();
        // Offset, strides, and elements of dimensions 1 to 3, for the result and three operands.
        let mut places = [[0u64; 8]; 4];
        for (i, (t, operand)) in tensors.iter().zip(&operands).enumerate() {
            let window = c.window(operand, &tile)?;
            let first = if t.ne(0) == 1 { 0 } else { t.nb(0) / 4 };
            places[i] = [
                from_base(t, &window, 2),
                first,
                t.nb(1) / 4,
                t.nb(2) / 4,
                t.nb(3) / 4,
                t.ne(1).max(1),
                t.ne(2).max(1),
                t.ne(3).max(1),
            ];
            more(&mut places, i);
            bindings.push(c.binding(t, &window, i == 0));
        }
        let [y, a, b, third] = places;
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([y[0], y[2], y[3], y[4]]).put(a[..5].iter().copied()).put(b);
        p.put([third[0], third[2], third[3], third[4]]).float(kernel.f);
        let rows = tile.len[1] * tile.len[2] * tile.len[3];
        let groups = if kernel.work == Work::Rows { rows } else { (rows * tile.len[0]).div_ceil(WORKGROUP) };
        out.push(Step {
            shader: kernel.shader,
            constants: kernel.constants,
            bindings,
            push: p.push(),
            groups: c.groups(groups)?,
        });
    }
    Ok(c.phase(out))
}

pub(crate) fn add(c: &Compiler) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::Add, Work::Elements))
}

pub(crate) fn mul(c: &Compiler) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::Mul, Work::Elements))
}

pub(crate) fn scale(c: &Compiler, factor: f32) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::Scale, Work::Elements).with(factor))
}

pub(crate) fn cont(c: &Compiler) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::Cont, Work::Elements))
}

/// The operands, copied one beside the other along dimension `dim`.
pub(crate) fn concat(c: &Compiler, dim: usize) -> Result<Vec<Phase>, OpError> {
    let mut all: Vec<Step> = Vec::new();
    let mut at = 0;
    for x in &c.src {
        let mut part = c.dst.clone();
        part.desc.ne[dim] = x.desc.ne[dim];
        part.offset += at * c.dst.nb(dim);
        at += x.ne(dim);
        let follows = vec![follows(&part, Work::Elements), follows(x, Work::Elements)];
        let phases = steps(c, Kernel::new(Shader::Cont, Work::Elements), &[&part, x], follows, |_, _| ())?;
        all.extend(phases.into_iter().flat_map(|p| p.steps));
    }
    Ok(c.phase(all))
}

fn number(kind: GluKind) -> u32 {
    match kind {
        GluKind::Swiglu => 0,
        GluKind::Reglu2 => 1,
        GluKind::Geglu => 2,
    }
}

pub(crate) fn glu(c: &Compiler, kind: GluKind) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::Glu, Work::Elements).kind(number(kind)))
}

pub(crate) fn glu_back(c: &Compiler, kind: GluKind) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::GluBack, Work::Elements).kind(number(kind)))
}

pub(crate) fn rms_norm(c: &Compiler, eps: f32) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::RmsNorm, Work::Rows).with(eps))
}

pub(crate) fn rms_norm_back(c: &Compiler, eps: f32) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::RmsNormBack, Work::Rows).with(eps))
}

pub(crate) fn soft_max(c: &Compiler, scale: f32) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::SoftMax, Work::Rows).with(scale))
}

pub(crate) fn soft_max_back(c: &Compiler, scale: f32) -> Result<Vec<Phase>, OpError> {
    compile(c, Kernel::new(Shader::SoftMaxBack, Work::Rows).with(scale))
}

pub(crate) fn rope(c: &Compiler, op: &Rope) -> Result<Vec<Phase>, OpError> {
    let (x, table) = (&c.src[0], &c.src[1]);
    let neox = match op.mode {
        RopeMode::Normal => 0,
        RopeMode::Neox => 1,
    };
    let sign = if op.inverse { -1.0 } else { 1.0 };
    let kernel = Kernel::new(Shader::Rope, Work::ElementsOfRows).kind(neox).with(sign);
    let rows = |t| follows(t, Work::ElementsOfRows);
    // The table's rows are those of dimension 2.
    let of_table = vec![Follow::NOT, Follow::NOT, Follow::each(table.nb(1)), Follow::NOT];
    let (n_rot, stride) = (table.ne(0), table.nb(1) / 4);
    steps(c, kernel, &[&c.dst, x, table], vec![rows(&c.dst), rows(x), of_table], move |places, i| {
        if i == 2 {
            places[2][3] = stride;
            places[3][0] = n_rot;
        }
    })
}
