use super::WORKGROUP;
use crate::shaders::Shader;
use crate::step::{Compiler, Parameters, Phase, Step, from_base};
use crate::tiling::Follow;
use ggml_ops::OpError;

/// Columns of the result that an invocation computes.
const COLUMNS: u64 = 4;

/// y[i, j] = sum over r of a[i, r] * b[j, r], in order of r.
pub(crate) fn out_prod(c: Compiler) -> Result<Vec<Phase>, OpError> {
    let (y, a, b) = (&c.dst, &c.src[0], &c.src[1]);
    let each = Follow::each;
    // The work: i, j, r, i2, i3. Rows of a are taken whole, as are those of y: their elements are blocks or words.
    let row = a.desc.ty.row_size(a.desc.ne[0]).unwrap_or(0) as u64;
    let operands = [
        y.operand(vec![Follow::NOT, each(y.nb(1)), Follow::NOT, each(y.nb(2)), each(y.nb(3))], y.ne(0) * 4),
        a.operand(vec![Follow::NOT, Follow::NOT, each(a.nb(1)), each(a.nb(2)), each(a.nb(3))], row),
        b.operand(vec![Follow::NOT, each(b.nb(0)), each(b.nb(1)), each(b.nb(2)), each(b.nb(3))], 4),
    ];
    // A sum over nothing is zero, which a tile must write.
    let ne = [y.ne(0), y.ne(1), a.ne(1), y.ne(2), y.ne(3)];
    if a.ne(1) == 0 {
        return Err(c.unsupported("a sum over nothing"));
    }
    let mut phases = Vec::new();
    for tile in c.tiles(&ne, &operands)? {
        let [wy, wa, wb] = [0, 1, 2].map(|i| c.window(&operands[i], &tile));
        let (wy, wa, wb) = (wy?, wa?, wb?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(y, &wy, 2), y.nb(1) / 4, y.nb(2) / 4, y.nb(3) / 4]);
        p.put([from_base(a, &wa, 0), a.nb(1), a.nb(2), a.nb(3)]);
        p.put([from_base(b, &wb, 2), b.nb(0) / 4, b.nb(1) / 4, b.nb(2) / 4, b.nb(3) / 4]);
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
