//! Operations that only training has: cpy, dropout, cross_entropy_loss, get_rows_back, opt_step_adamw.

use super::WORKGROUP;
use crate::shaders::Shader;
use crate::step::{Compiler, Parameters, Phase, Step, Tensor, from_base};
use crate::tiling::Follow;
use ggml_ops::OpError;
use ggml_ops::ops::Dropout;

/// f32 to f16, row by row.
pub(crate) fn cpy(c: &Compiler) -> Result<Vec<Phase>, OpError> {
    let (y, x) = (&c.dst, &c.src[0]);
    let rows = |t: &Tensor, size: u64| {
        t.operand(vec![Follow::each(t.nb(1)), Follow::each(t.nb(2)), Follow::each(t.nb(3))], t.ne(0) * size)
    };
    let operands = [rows(y, 2), rows(x, 4)];
    let mut steps = Vec::new();
    for tile in c.tiles(&[y.ne(1), y.ne(2), y.ne(3)], &operands)? {
        let (wy, wx) = (c.window(&operands[0], &tile)?, c.window(&operands[1], &tile)?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(y, &wy, 1), y.nb(1) / 2, y.nb(2) / 2, y.nb(3) / 2]);
        p.put([from_base(x, &wx, 2), x.nb(1) / 4, x.nb(2) / 4, x.nb(3) / 4, x.ne(0)]);
        steps.push(Step {
            shader: Shader::Cpy,
            constants: [0; 3],
            bindings: vec![c.binding(y, &wy, true), c.binding(x, &wx, false)],
            push: p.push(),
            groups: c.groups(tile.len.iter().product())?,
        });
    }
    Ok(c.phase(steps))
}

pub(crate) fn dropout(c: &Compiler, op: &Dropout) -> Result<Vec<Phase>, OpError> {
    let (y, x, seed) = (&c.dst, &c.src[0], &c.src[1]);
    let elements = |t: &Tensor| t.operand((0..4).map(|d| Follow::each(t.nb(d))).collect(), 4);
    let operands = [elements(y), elements(x), seed.operand(vec![Follow::NOT; 4], 8)];
    let mut steps = Vec::new();
    for tile in c.tiles(&[0, 1, 2, 3].map(|d| y.ne(d)), &operands)? {
        let [wy, wx, ws] = [0, 1, 2].map(|i| c.window(&operands[i], &tile));
        let (wy, wx, ws) = (wy?, wx?, ws?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(y, &wy, 2), y.nb(1) / 4, y.nb(2) / 4, y.nb(3) / 4]);
        p.put([from_base(x, &wx, 2), x.nb(1) / 4, x.nb(2) / 4, x.nb(3) / 4]);
        p.put([y.ne(0), y.ne(1), y.ne(2), from_base(seed, &ws, 2), op.stream.into(), op.threshold().into()]);
        p.float(op.factor());
        steps.push(Step {
            shader: Shader::Dropout,
            constants: [0; 3],
            bindings: vec![c.binding(y, &wy, true), c.binding(x, &wx, false), c.binding(seed, &ws, false)],
            push: p.push(),
            groups: c.groups(tile.len.iter().product::<u64>().div_ceil(WORKGROUP))?,
        });
    }
    Ok(c.phase(steps))
}

/// The rows of the state are three operands, each cut along the elements.
pub(crate) fn opt_step_adamw(c: &Compiler) -> Result<Vec<Phase>, OpError> {
    let (state, grad, step) = (&c.dst, &c.src[1], &c.src[2]);
    let row = |r: u64| {
        let mut t = state.clone();
        t.offset += r * state.nb(1);
        t.desc.ne[1] = 1;
        t
    };
    let tensors = [row(0), row(1), row(2), grad.clone(), step.clone()];
    let follows = |i: usize| if i < 4 { (Follow::each(4), 4) } else { (Follow::NOT, 4 * step.ne(0)) };
    let operands: Vec<_> = (0..5).map(|i| tensors[i].operand(vec![follows(i).0], follows(i).1)).collect();
    let mut steps = Vec::new();
    for tile in c.tiles(&[state.ne(0)], &operands)? {
        let windows = operands.iter().map(|o| c.window(o, &tile)).collect::<Result<Vec<_>, _>>()?;
        let mut p = Parameters::new();
        p.put([tile.start[0], tile.len[0]]);
        p.put((0..5).map(|i| from_base(&tensors[i], &windows[i], 2)));
        steps.push(Step {
            shader: Shader::OptStepAdamw,
            constants: [0; 3],
            bindings: (0..5).map(|i| c.binding(&tensors[i], &windows[i], i < 3)).collect(),
            push: p.push(),
            groups: c.groups(tile.len[0].div_ceil(WORKGROUP))?,
        });
    }
    Ok(c.phase(steps))
}

/// The loss of each row, or the gradient of the logits.
pub(crate) fn cross_entropy_loss(mut c: Compiler, back: bool) -> Result<Vec<Phase>, OpError> {
    let step = c.lookup(c.src[0].desc.ne[0]);
    let (y, x, labels, weights) = (&c.dst, &c.src[0], &c.src[1], &c.src[2]);
    // Without an upstream gradient the weights stand in for it, unread.
    let grad = c.src.get(3).unwrap_or(weights);
    let (y_row, y_item) = if back { (y.nb(1), y.ne(0) * 4) } else { (4, 4) };
    let each = |t: &Tensor| t.operand(vec![Follow::each(4)], 4);
    let operands = [
        y.operand(vec![Follow::each(y_row)], y_item),
        x.operand(vec![Follow::each(x.nb(1))], x.ne(0) * 4),
        each(labels),
        each(weights),
        each(grad),
    ];
    let tensors = [y, x, labels, weights, grad];
    let mut steps = Vec::new();
    for tile in c.tiles(&[x.ne(1)], &operands)? {
        let windows = operands.iter().map(|o| c.window(o, &tile)).collect::<Result<Vec<_>, _>>()?;
        let at = |i: usize| from_base(tensors[i], &windows[i], 2);
        let mut p = Parameters::new();
        p.put([tile.start[0], tile.len[0], at(0), y_row / 4, at(1), x.nb(1) / 4, at(2), at(3), at(4), x.ne(0), step]);
        let mut bindings: Vec<_> = (0..5).map(|i| c.binding(tensors[i], &windows[i], i == 0)).collect();
        bindings.push(c.fault());
        let constants = [u32::from(back), 0, 0];
        let groups = c.groups(tile.len[0])?;
        steps.push(Step { shader: Shader::CrossEntropyLoss, constants, bindings, push: p.push(), groups });
    }
    Ok(c.phase(steps))
}

pub(crate) fn get_rows_back(mut c: Compiler) -> Result<Vec<Phase>, OpError> {
    let step = c.lookup(c.dst.desc.ne[1]);
    let (y, x, ids) = (&c.dst, &c.src[0], &c.src[1]);
    if x.ne(1) == 0 {
        return Err(c.unsupported("a sum over nothing"));
    }
    let operands = [
        y.operand(vec![Follow::each(y.nb(1)), Follow::NOT], y.ne(0) * 4),
        x.operand(vec![Follow::NOT, Follow::each(x.nb(1))], x.ne(0) * 4),
        ids.operand(vec![Follow::NOT, Follow::each(4)], 4),
    ];
    // Divided sums go on where others stopped: a phase for each tile.
    let mut phases = Vec::new();
    for tile in c.tiles(&[y.ne(1), x.ne(1)], &operands)? {
        let [wy, wx, wi] = [0, 1, 2].map(|i| c.window(&operands[i], &tile));
        let (wy, wx, wi) = (wy?, wx?, wi?);
        let mut p = Parameters::new();
        p.put(tile.start.iter().copied()).put(tile.len.iter().copied());
        p.put([from_base(y, &wy, 2), y.nb(1) / 4, from_base(x, &wx, 2), x.nb(1) / 4]);
        p.put([from_base(ids, &wi, 2), x.ne(0), y.ne(1), step]);
        let bindings = vec![c.binding(y, &wy, true), c.binding(x, &wx, false), c.binding(ids, &wi, false), c.fault()];
        let groups = c.groups(tile.len[0])?;
        let step = Step { shader: Shader::GetRowsBack, constants: [0; 3], bindings, push: p.push(), groups };
        phases.push(Phase { op: c.op, steps: vec![step] });
    }
    Ok(phases)
}
