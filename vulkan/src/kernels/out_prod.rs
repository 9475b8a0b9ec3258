//! out_prod: y[i, j] = sum over r of a[i, r] * b[j, r].

use super::WORKGROUP;
use super::mul_mat::records_of;
use crate::cooperative_matrix::{BACK_TOKENS, BLOCK, MIN_TOKENS};
use crate::shaders::Shader;
use crate::step::{Compiler, Parameters, Phase, Step, Tensor, from_base};
use crate::tiling::{Follow, Operand, PART};
use ggml_ops::OpError;
use ggml_ops::ops::OutProd;

/// Columns of the result that an invocation computes.
const COLUMNS: u64 = 4;
/// Rows whose sum cannot leave an i32: weights are at most 2 (a code 3 in a hostile file), gradients 32512.
const MAX_I32_ROWS: u64 = 32768;

pub(crate) fn out_prod(mut c: Compiler, op: &OutProd) -> Result<Vec<Phase>, OpError> {
    if c.src[0].ne(1) == 0 {
        // A sum over nothing is zero, which no tile would write.
        return Err(c.unsupported("a sum over nothing"));
    }
    match op.uniform_scale {
        None => float(&c),
        Some(d) => ternary(&mut c, d),
    }
}

/// The result and `a` over the work: i, j, rows (so many at a time), i2, i3. Rows are taken whole: their elements are
/// blocks or words.
fn operands(c: &Compiler, rows: u64) -> [Operand; 2] {
    let (y, a) = (&c.dst, &c.src[0]);
    let each = Follow::each;
    let row = a.desc.ty.row_size(a.desc.ne[0]).unwrap_or(0) as u64;
    [
        y.operand(vec![Follow::NOT, each(y.nb(1)), Follow::NOT, each(y.nb(2)), each(y.nb(3))], y.ne(0) * 4),
        a.operand(
            vec![Follow::NOT, Follow::NOT, each(rows.saturating_mul(a.nb(1))), each(a.nb(2)), each(a.nb(3))],
            (rows - 1).saturating_mul(a.nb(1)).saturating_add(row),
        ),
    ]
}

/// b as it is, sums in parts.
fn float(c: &Compiler) -> Result<Vec<Phase>, OpError> {
    let (y, a, b) = (&c.dst, &c.src[0], &c.src[1]);
    let each = Follow::each;
    let rows = PART.min(a.ne(1));
    let [for_y, for_a] = operands(c, rows);
    let for_b = b.operand(
        vec![Follow::NOT, each(b.nb(0)), each(rows.saturating_mul(b.nb(1))), each(b.nb(2)), each(b.nb(3))],
        (rows - 1).saturating_mul(b.nb(1)).saturating_add(4),
    );
    let operands = [for_y, for_a, for_b];
    let ne = [y.ne(0), y.ne(1), a.ne(1).div_ceil(PART), y.ne(2), y.ne(3)];
    let mut phases = Vec::new();
    for tile in c.tiles(&ne, &operands)? {
        let [wy, wa, wb] = [0, 1, 2].map(|i| c.window(&operands[i], &tile));
        let (wy, wa, wb) = (wy?, wa?, wb?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(y, &wy, 2), y.nb(1) / 4, y.nb(2) / 4, y.nb(3) / 4]);
        p.put([from_base(a, &wa, 0), a.nb(1), a.nb(2), a.nb(3)]);
        p.put([from_base(b, &wb, 2), b.nb(0) / 4, b.nb(1) / 4, b.nb(2) / 4, b.nb(3) / 4, a.ne(1)]);
        let items = tile.len[0] * tile.len[1].div_ceil(COLUMNS) * tile.len[3] * tile.len[4];
        let step = Step {
            shader: Shader::OutProd,
            constants: [a.desc.ty.id(), 0, 0],
            bindings: vec![c.binding(y, &wy, true), c.binding(a, &wa, false), c.binding(b, &wb, false)],
            push: p.push(),
            groups: c.groups(items.div_ceil(WORKGROUP))?,
        };
        // Tiles of a divided sum go on where others stopped: a phase for each.
        phases.push(Phase { op: c.op, steps: vec![step] });
    }
    Ok(phases)
}

/// b rounded to 16 bits, sums of integers.
fn ternary(c: &mut Compiler, d: f32) -> Result<Vec<Phase>, OpError> {
    let rows = c.src[0].ne(1);
    if rows > MAX_I32_ROWS {
        return Err(c.unsupported(format!("a sum over {rows} rows of ternary weights, more than {MAX_I32_ROWS}")));
    }
    let ne = c.src[1].desc.ne;
    let records = records_of(c, 1 + rows, [ne[0], ne[2], ne[3]])?;
    // They take the place of other rounded activations.
    c.shared.holds = None;
    let mut phases = round(c, &records)?;
    let (y, a) = (&c.dst, &c.src[0]);
    let each = Follow::each;
    let [for_y, for_a] = operands(c, 1);
    let follows = vec![Follow::NOT, each(records.nb(1)), Follow::NOT, each(records.nb(2)), each(records.nb(3))];
    let operands = [for_y, for_a, records.operand(follows, records.ne(0) * 4)];
    for tile in c.tiles(&[y.ne(0), y.ne(1), rows, y.ne(2), y.ne(3)], &operands)? {
        let [wy, wa, wb] = [0, 1, 2].map(|i| c.window(&operands[i], &tile));
        let (wy, wa, wb) = (wy?, wa?, wb?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(y, &wy, 2), y.nb(1) / 4, y.nb(2) / 4, y.nb(3) / 4]);
        p.put([from_base(a, &wa, 0), a.nb(1), a.nb(2), a.nb(3)]);
        p.put([from_base(&records, &wb, 2), records.nb(1) / 4, records.nb(2) / 4, records.nb(3) / 4, rows]).float(d);
        let (shader, tokens, groups) = if c.limits.cooperative_matrix.is_some() && tile.len[1] >= MIN_TOKENS {
            let tokens = tile.len[1].next_power_of_two().min(BACK_TOKENS);
            (Shader::OutProdTernaryCoopmat, tokens, tile.len[0] / BLOCK * tile.len[1].div_ceil(tokens))
        } else {
            (Shader::OutProdTernary, 0, (tile.len[0] * tile.len[1].div_ceil(COLUMNS)).div_ceil(WORKGROUP))
        };
        let step = Step {
            shader,
            constants: [a.desc.ty.id(), tokens as u32, 0],
            bindings: vec![c.binding(y, &wy, true), c.binding(a, &wa, false), c.binding(&records, &wb, false)],
            push: p.push(),
            groups: c.groups(groups * tile.len[3] * tile.len[4])?,
        };
        phases.push(Phase { op: c.op, steps: vec![step] });
    }
    Ok(phases)
}

fn round(c: &Compiler, records: &Tensor) -> Result<Vec<Phase>, OpError> {
    let b = &c.src[1];
    let each = Follow::each;
    let for_records = vec![each(records.nb(1)), each(records.nb(2)), each(records.nb(3))];
    let operands = [
        records.operand(for_records, records.ne(0) * 4),
        b.operand(
            vec![each(b.nb(0)), each(b.nb(2)), each(b.nb(3))],
            (b.ne(1) - 1).saturating_mul(b.nb(1)).saturating_add(4),
        ),
    ];
    let mut steps = Vec::new();
    for tile in c.tiles(&[b.ne(0), b.ne(2), b.ne(3)], &operands)? {
        let (wr, wb) = (c.window(&operands[0], &tile)?, c.window(&operands[1], &tile)?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(b, &wb, 2), b.nb(1) / 4, b.nb(0) / 4, b.nb(2) / 4, b.nb(3) / 4]);
        p.put([from_base(records, &wr, 2), records.nb(1) / 4, records.nb(2) / 4, records.nb(3) / 4, b.ne(1)]);
        steps.push(Step {
            shader: Shader::ActI16,
            constants: [0; 3],
            bindings: vec![c.binding(records, &wr, true), c.binding(b, &wb, false)],
            push: p.push(),
            groups: c.groups(tile.len.iter().product())?,
        });
    }
    Ok(vec![Phase { op: "round gradients", steps }])
}
