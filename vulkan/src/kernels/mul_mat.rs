//! mul_mat: activations rounded as the weights' type asks, then tiles of the result.

use super::WORKGROUP;
use crate::cooperative_matrix::{MAX_TOKENS, MIN_TOKENS, ROWS};
use crate::shaders::Shader;
use crate::step::{Compiler, Memory, Parameters, Phase, Step, Storage, Tensor, from_base, unsupported};
use crate::tiling::{BINDING_ALIGN, Follow};
use ggml_ops::ops::MulMat;
use ggml_ops::{OpError, TensorDesc};
use gguf::GgmlType;
use std::sync::Arc;

/// What becomes of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActFormat {
    /// Nothing.
    F32,
    /// int8 with one scale for each row.
    I8,
    /// int8 with a scale for each 32.
    Q8_0,
    /// int8 with a scale for each 256.
    Q8K,
}

impl ActFormat {
    /// Words of a record of `k` activations.
    fn words(self, k: u64) -> u64 {
        match self {
            ActFormat::F32 => k,
            ActFormat::I8 => 2 + k / 4,
            ActFormat::Q8_0 => k / 32 * 9,
            ActFormat::Q8K => k / 256 * 73,
        }
    }

    /// The shader that makes records, and how many workgroups it takes for so many rows.
    fn shader(self, rows: u64, k: u64) -> Option<(Shader, u64)> {
        match self {
            ActFormat::F32 => None,
            ActFormat::I8 => Some((Shader::ActI8, rows)),
            ActFormat::Q8_0 => Some((Shader::ActQ8_0, (rows * (k / 32)).div_ceil(8))),
            ActFormat::Q8K => Some((Shader::ActQ8K, rows * (k / 256))),
        }
    }
}

/// The shader for these weights, and what it does to activations.
///
/// # Errors
/// For a type without one.
pub(crate) fn kernel(op: &MulMat, w: &TensorDesc) -> Result<(Shader, ActFormat), OpError> {
    Ok(match w.ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => (Shader::MulMatFloat, ActFormat::F32),
        GgmlType::Q8_0 | GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 => {
            (Shader::MulMatQ8_0, ActFormat::Q8_0)
        }
        GgmlType::IQ4_NL | GgmlType::MXFP4 => (Shader::MulMatQ8_0, ActFormat::Q8_0),
        GgmlType::IQ4_XS => (Shader::MulMatQ8_0, ActFormat::Q8K),
        GgmlType::Q4_K | GgmlType::Q5_K => (Shader::MulMatQ4K, ActFormat::Q8K),
        GgmlType::Q2_K | GgmlType::Q3_K | GgmlType::Q6_K => (Shader::MulMatQ6K, ActFormat::Q8K),
        GgmlType::TQ1_0 | GgmlType::TQ2_0 if op.uniform_scale.is_some() => (Shader::MulMatTernary, ActFormat::I8),
        GgmlType::TQ1_0 | GgmlType::TQ2_0 => (Shader::MulMatTernaryScaled, ActFormat::Q8K),
        ty => return Err(unsupported("mul_mat", format!("weights of type {ty}"))),
    })
}

pub(crate) fn mul_mat(mut c: Compiler, op: &MulMat) -> Result<Vec<Phase>, OpError> {
    let (mut shader, format) = kernel(op, &c.src[0].desc)?;
    if c.limits.integer_dot {
        shader = shader.with_integer_dot();
    }
    let mut phases = Vec::new();
    let records = match format {
        ActFormat::F32 => c.src[1].clone(),
        _ => {
            let records = records(&mut c, format)?;
            // Projections of the same input follow each other (q k v; gate up): it is rounded once.
            if c.shared.holds != Some((c.src_ids[1], format)) {
                phases.extend(round(&c, format, &records)?);
                c.shared.holds = Some((c.src_ids[1], format));
            }
            records
        }
    };
    phases.extend(multiply(&c, op, shader, &records)?);
    Ok(phases)
}

/// Where the records of x go, as a tensor of words.
fn records(c: &mut Compiler, format: ActFormat) -> Result<Tensor, OpError> {
    let ne = c.src[1].desc.ne;
    records_of(c, format.words(ne[0] as u64), [ne[1], ne[2], ne[3]])
}

/// Records of so many words, in the memory for rounded activations.
pub(super) fn records_of(c: &mut Compiler, words: u64, ne: [usize; 3]) -> Result<Tensor, OpError> {
    let words = usize::try_from(words).map_err(|_| c.unsupported("rows of this length"))?;
    let desc = TensorDesc::new(GgmlType::F32, &[words, ne[0], ne[1], ne[2]])?;
    let bytes = (desc.extent() as u64).next_multiple_of(BINDING_ALIGN);
    c.shared.activations = c.shared.activations.max(bytes);
    Ok(Tensor { desc, offset: 0, storage: Arc::new(Storage { parts: vec![(0..bytes, Memory::Activations)] }) })
}

fn round(c: &Compiler, format: ActFormat, records: &Tensor) -> Result<Vec<Phase>, OpError> {
    let x = &c.src[1];
    let rows = |t: &Tensor| {
        let follows = vec![Follow::each(t.nb(1)), Follow::each(t.nb(2)), Follow::each(t.nb(3))];
        t.operand(follows, t.ne(0) * 4)
    };
    let operands = [rows(records), rows(x)];
    let mut steps = Vec::new();
    for tile in c.tiles(&[x.ne(1), x.ne(2), x.ne(3)], &operands)? {
        let (wr, wx) = (c.window(&operands[0], &tile)?, c.window(&operands[1], &tile)?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(x, &wx, 2), x.nb(1) / 4, x.nb(2) / 4, x.nb(3) / 4]);
        p.put([from_base(records, &wr, 2), records.nb(1) / 4, records.nb(2) / 4, records.nb(3) / 4, x.ne(0)]);
        let n = tile.len.iter().product();
        if let Some((shader, groups)) = format.shader(n, x.ne(0)) {
            let bindings = vec![c.binding(records, &wr, true), c.binding(x, &wx, false)];
            steps.push(Step { shader, constants: [0; 3], bindings, push: p.push(), groups: c.groups(groups)? });
        }
    }
    Ok(vec![Phase { op: "round activations", steps }])
}

fn multiply(c: &Compiler, op: &MulMat, shader: Shader, x: &Tensor) -> Result<Vec<Phase>, OpError> {
    let (y, w) = (&c.dst, &c.src[0]);
    let (r2, r3) = (y.ne(2) / w.ne(2), y.ne(3) / w.ne(3));
    let shared = |d: usize, div: u64| Follow { stride: w.nb(d), div: div.max(1), modulo: u64::MAX };
    let each = Follow::each;
    let row = w.desc.ty.row_size(w.desc.ne[0]).unwrap_or(0) as u64;
    // The work: rows of w, tokens, i2, i3.
    let operands = [
        y.operand(vec![each(4), each(y.nb(1)), each(y.nb(2)), each(y.nb(3))], 4),
        w.operand(vec![each(w.nb(1)), Follow::NOT, shared(2, r2), shared(3, r3)], row),
        x.operand(vec![Follow::NOT, each(x.nb(1)), each(x.nb(2)), each(x.nb(3))], x.ne(0) * 4),
    ];
    let mut steps = Vec::new();
    for tile in c.tiles(&[0, 1, 2, 3].map(|d| y.ne(d)), &operands)? {
        let [wy, ww, wx] = [0, 1, 2].map(|i| c.window(&operands[i], &tile));
        let (wy, ww, wx) = (wy?, ww?, wx?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(w, &ww, 0), w.nb(1), w.nb(2), w.nb(3), r2.max(1), r3.max(1)]);
        p.put([from_base(x, &wx, 2), x.nb(1) / 4, x.nb(2) / 4, x.nb(3) / 4]);
        p.put([from_base(y, &wy, 2), y.nb(1) / 4, y.nb(2) / 4, y.nb(3) / 4]);
        p.put([w.ne(0)]).float(op.uniform_scale.unwrap_or(0.0));
        let Shape { shader, rows, tokens, height } = shape(c, shader, tile.len[1]);
        let tiles = tile.len[0].div_ceil(height) * tile.len[1].div_ceil(tokens);
        steps.push(Step {
            shader,
            constants: [rows as u32, tokens as u32, w.desc.ty.id()],
            bindings: vec![c.binding(y, &wy, true), c.binding(w, &ww, false), c.binding(x, &wx, false)],
            push: p.push(),
            groups: c.groups(tiles * tile.len[2] * tile.len[3])?,
        });
    }
    Ok(c.phase(steps))
}

/// How a product is cut up.
struct Shape {
    shader: Shader,
    /// Rows of weights that are taken together, and tokens.
    rows: u64,
    tokens: u64,
    /// Rows of a workgroup.
    height: u64,
}

fn shape(c: &Compiler, shader: Shader, n_tokens: u64) -> Shape {
    let ternary = matches!(shader, Shader::MulMatTernary | Shader::MulMatTernaryDot);
    if ternary && n_tokens >= MIN_TOKENS && c.limits.cooperative_matrix.is_some() {
        let tokens = n_tokens.next_power_of_two().min(MAX_TOKENS);
        return Shape { shader: Shader::MulMatTernaryCoopmat, rows: ROWS, tokens, height: ROWS };
    }
    // One token: many workgroups with little each. Several: weights are unpacked once for four of them.
    let (rows, tokens) = if n_tokens > 1 { (2, 4) } else { (1, 1) };
    Shape { shader, rows, tokens, height: rows * WORKGROUP / 16 }
}
