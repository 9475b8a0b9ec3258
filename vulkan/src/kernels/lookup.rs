//! get_rows and set_rows: tables that may be divided, and rows of them by number.

use super::WORKGROUP;
use crate::shaders::Shader;
use crate::step::{Compiler, Parameters, Phase, Step, from_base};
use crate::tiling::Follow;
use ggml_ops::OpError;

pub(crate) fn get_rows(mut c: Compiler) -> Result<Vec<Phase>, OpError> {
    let step = c.lookup(c.src[0].desc.ne[1]);
    let (y, table, ids) = (&c.dst, &c.src[0], &c.src[1]);
    let row = table.desc.ty.row_size(table.desc.ne[0]).unwrap_or(0) as u64;
    let operands = [
        y.operand(vec![Follow::NOT, Follow::each(y.nb(1))], y.ne(0) * 4),
        table.operand(vec![Follow::each(table.nb(1)), Follow::NOT], row),
        ids.operand(vec![Follow::NOT, Follow::each(4)], 4),
    ];
    let mut steps = Vec::new();
    for tile in c.tiles(&[table.ne(1).max(1), y.ne(1)], &operands)? {
        let [wy, wt, wi] = [0, 1, 2].map(|i| c.window(&operands[i], &tile));
        let (wy, wt, wi) = (wy?, wt?, wi?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(y, &wy, 2), y.nb(1) / 4, from_base(table, &wt, 0), table.nb(1)]);
        p.put([from_base(ids, &wi, 2), table.ne(0), table.ne(1), step]);
        steps.push(Step {
            shader: Shader::GetRows,
            constants: [table.desc.ty.id(), 0, 0],
            bindings: vec![
                c.binding(y, &wy, true),
                c.binding(table, &wt, false),
                c.binding(ids, &wi, false),
                c.fault(),
            ],
            push: p.push(),
            groups: c.groups((table.ne(0) * tile.len[1]).div_ceil(WORKGROUP))?,
        });
    }
    Ok(c.phase(steps))
}

pub(crate) fn set_rows(mut c: Compiler) -> Result<Vec<Phase>, OpError> {
    let step = c.lookup(c.src[0].desc.ne[1]);
    let (table, x, ids) = (&c.src[0], &c.src[1], &c.src[2]);
    let row = table.desc.ty.row_size(table.desc.ne[0]).unwrap_or(0) as u64;
    let operands = [
        table.operand(vec![Follow::each(table.nb(1)), Follow::NOT], row),
        x.operand(vec![Follow::NOT, Follow::each(x.nb(1))], x.ne(0) * 4),
        ids.operand(vec![Follow::NOT, Follow::each(4)], 4),
    ];
    // A phase for each tile: where ids repeat, later rows must come later.
    let mut phases = Vec::new();
    for tile in c.tiles(&[table.ne(1).max(1), x.ne(1)], &operands)? {
        let [wt, wx, wi] = [0, 1, 2].map(|i| c.window(&operands[i], &tile));
        let (wt, wx, wi) = (wt?, wx?, wi?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(x, &wx, 2), x.nb(1) / 4, from_base(table, &wt, 0), table.nb(1)]);
        p.put([from_base(ids, &wi, 2), table.ne(0), table.ne(1), step]);
        let bindings =
            vec![c.binding(table, &wt, true), c.binding(x, &wx, false), c.binding(ids, &wi, false), c.fault()];
        let groups = c.groups(tile.len[1])?;
        let constants = [table.desc.ty.id(), 0, 0];
        let step = Step { shader: Shader::SetRows, constants, bindings, push: p.push(), groups };
        phases.push(Phase { op: c.op, steps: vec![step] });
    }
    Ok(phases)
}
