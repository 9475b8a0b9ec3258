//! Which cooperative matrices kernels may multiply on a device: of int8, with sums in int32 (VK_KHR_cooperative_matrix).

use crate::VulkanBackend;
use ash::vk::{ComponentTypeKHR, CooperativeMatrixPropertiesKHR, Result as Code, ScopeKHR};
use ggml_ops::backend::{Backend, Bindings};
use ggml_ops::ops::{MulMat, OutProd};
use ggml_ops::{Graph, OpError, TensorDesc, quants};
use gguf::GgmlType;
use std::sync::Arc;
use vulkano::VulkanObject;
use vulkano::device::physical::PhysicalDevice;
use vulkano::device::{DeviceExtensions, DeviceFeatures};
use vulkano::shader::ShaderStages;

/// Subgroups of a workgroup, each of which multiplies matrices of its own.
pub(crate) const TEAM: u32 = 4;
/// Rows of weights that a workgroup multiplies with up to [`MAX_TOKENS`] tokens; at least [`MIN_TOKENS`] are worth it.
pub(crate) const ROWS: u64 = 64;
pub(crate) const MIN_TOKENS: u64 = 16;
pub(crate) const MAX_TOKENS: u64 = 64;
/// For transposed weights: columns of a block, and the most tokens.
pub(crate) const BLOCK: u64 = 256;
pub(crate) const BACK_TOKENS: u64 = 32;
/// Bytes that these take of a workgroup's memory: 40 words and 4 more of each row and token (`mul_mat_ternary_coopmat.comp`); 16 and 4
/// of each column, and twice of each token (`out_prod_ternary_coopmat.comp`).
const SHARED_BYTES: [u64; 2] = [(ROWS + MAX_TOKENS) * 44 * 4, (BLOCK + 2 * BACK_TOKENS) * 20 * 4];

/// Rows of the first matrix, columns of the second, and what both have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub m: u32,
    pub n: u32,
    pub k: u32,
}

/// What has to be enabled for them.
pub(crate) fn needs() -> (DeviceExtensions, DeviceFeatures) {
    (
        DeviceExtensions { khr_cooperative_matrix: true, ..DeviceExtensions::empty() },
        // Shaders with such matrices are of Vulkan's memory model; where it is enabled, atomic operations on a device's memory ask for
        // the last of these, in shaders of the old model too.
        DeviceFeatures {
            cooperative_matrix: true,
            shader_int8: true,
            vulkan_memory_model: true,
            vulkan_memory_model_device_scope: true,
            ..DeviceFeatures::empty()
        },
    )
}

/// The largest shape that kernels can use, with subgroups of this size, which are full.
pub(crate) fn shape(physical: &PhysicalDevice, subgroup: u32) -> Option<Shape> {
    let p = physical.properties();
    let (extensions, features) = needs();
    let has = physical.supported_extensions().contains(&extensions)
        && physical.supported_features().contains(&features)
        && p.cooperative_matrix_supported_stages.is_some_and(|s| s.intersects(ShaderStages::COMPUTE))
        && p.max_compute_workgroup_subgroups.is_some_and(|most| most >= TEAM)
        && p.max_compute_work_group_invocations.min(p.max_compute_work_group_size[0]) >= TEAM * subgroup
        && SHARED_BYTES.iter().all(|&bytes| u64::from(p.max_compute_shared_memory_size) >= bytes);
    if has { largest(&properties(physical)) } else { None }
}

/// Those of signed bytes whose sums wrap, if at all, and that divide what a subgroup multiplies: 16 rows, 16 tokens and 32 columns. (Very
/// small ones would be very many.)
fn largest(all: &[CooperativeMatrixPropertiesKHR]) -> Option<Shape> {
    let divides = |n: u32, whole: u32| n >= 8 && whole.is_multiple_of(n);
    let fits = |p: &&CooperativeMatrixPropertiesKHR| {
        [p.a_type, p.b_type] == [ComponentTypeKHR::SINT8; 2]
            && [p.c_type, p.result_type] == [ComponentTypeKHR::SINT32; 2]
            && p.saturating_accumulation == 0
            && p.scope == ScopeKHR::SUBGROUP
            && divides(p.m_size, 16)
            && divides(p.n_size, 16)
            && divides(p.k_size, 32)
    };
    let shapes = all.iter().filter(fits).map(|p| Shape { m: p.m_size, n: p.n_size, k: p.k_size });
    shapes.max_by_key(|s| (s.m * s.n * s.k, s.k))
}

/// All that the device offers, in any type; it has the extension.
fn properties(physical: &PhysicalDevice) -> Vec<CooperativeMatrixPropertiesKHR<'static>> {
    let get = physical.instance().fns().khr_cooperative_matrix.get_physical_device_cooperative_matrix_properties_khr;
    let mut count = 0;
    // SAFETY: the device has the extension, so the call is its own; without a place to write to it only counts.
    if unsafe { get(physical.handle(), &mut count, std::ptr::null_mut()) } != Code::SUCCESS {
        return Vec::new();
    }
    let mut all = vec![CooperativeMatrixPropertiesKHR::default(); count as usize];
    // SAFETY: as above; `count` structures lie there.
    if unsafe { get(physical.handle(), &mut count, all.as_mut_ptr()) } != Code::SUCCESS {
        return Vec::new();
    }
    all.truncate(count as usize);
    all
}

/// Whether the device multiplies right, if it has matrices to multiply: no driver but lavapipe was tested.
pub(crate) fn are_right(backend: &VulkanBackend) -> bool {
    // Not for the profile.
    let backend = VulkanBackend { gpu: backend.gpu.clone(), exact: Ok(()), profile: None };
    backend.cooperative_matrix().is_none() || products(&backend).is_ok_and(|right| right)
}

/// Products of weights of -1, 0 and 1 with whole numbers, in whole tiles and others, compared with the host's: what mul_mat and out_prod
/// round x and dy to are the numbers themselves.
fn products(backend: &VulkanBackend) -> Result<bool, OpError> {
    const SIZES: [usize; 3] = [512, 70, 40];
    let [k, rows, tokens] = SIZES;
    let numbers = |n: usize, most: usize| -> Vec<f32> {
        (0..n).map(|i| (i * (most / 7) % (2 * most + 1)) as f32 - most as f32).collect()
    };
    let w: Vec<f32> = (0..rows * k).map(|i| ((i * i / 7 + i) % 3) as f32 - 1.0).collect();
    let (mut x, mut dy) = (numbers(tokens * k, 127), numbers(rows * tokens, 32512));
    x.chunks_exact_mut(k).for_each(|x| x[k / 2] = 127.0);
    dy[..tokens].fill(-32512.0);
    let desc = TensorDesc::new(GgmlType::TQ2_0, &[k, rows])?;
    let mut weights = vec![0; desc.extent()];
    let failed = |e: quants::QuantError| OpError::Backend { backend: "vulkan", what: e.to_string() };
    quants::quantize(desc.ty, &w, &mut weights).map_err(failed)?;
    let mut graph = Graph::new();
    let for_w = graph.weight("w", desc);
    let (for_x, for_dy) = (graph.input_f32("x", &[k, tokens])?, graph.input_f32("dy", &[tokens, rows])?);
    let y = graph.op(MulMat { uniform_scale: Some(1.0) }, &[for_w, for_x])?;
    let dx = graph.op(OutProd { uniform_scale: Some(1.0) }, &[for_w, for_dy])?;
    graph.output(y);
    graph.output(dx);
    let bindings = Bindings::from([(for_w, backend.load(&desc, Arc::new(weights))?)]);
    let mut program = backend.compile(Arc::new(graph), &bindings)?;
    program.write(for_x, bytemuck::cast_slice(&x))?;
    program.write(for_dy, bytemuck::cast_slice(&dy))?;
    program.run()?;
    let (mut got_y, mut got_dx) = (vec![0f32; rows * tokens], vec![0f32; k * tokens]);
    program.read(y, bytemuck::cast_slice_mut(&mut got_y))?;
    program.read(dx, bytemuck::cast_slice_mut(&mut got_dx))?;
    // Sums below 2^24, which f32 holds.
    let want_y = |i: usize| (0..k).map(|c| w[i % rows * k + c] * x[i / rows * k + c]).sum::<f32>();
    let want_dx = |i: usize| (0..rows).map(|r| w[r * k + i % k] * dy[r * tokens + i / k]).sum::<f32>();
    let right = |got: &[f32], want: &dyn Fn(usize) -> f32| got.iter().enumerate().all(|(i, v)| *v == want(i));
    Ok(right(&got_y, &want_y) && right(&got_dx, &want_dx))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VulkanOptions;

    /// Where there is a device with matrices; on others it says nothing.
    #[test]
    fn products_are_right() {
        let options = VulkanOptions { cooperative_matrix: Some(true), ..VulkanOptions::default() };
        match VulkanBackend::new(options) {
            Ok(backend) if backend.cooperative_matrix().is_some() => assert_eq!(products(&backend), Ok(true)),
            Ok(_) => eprintln!("not tested: the device has no cooperative matrices of int8"),
            Err(e) => eprintln!("not tested: {e}"),
        }
    }

    fn of([m, n, k]: [u32; 3]) -> CooperativeMatrixPropertiesKHR<'static> {
        let (byte, word) = (ComponentTypeKHR::SINT8, ComponentTypeKHR::SINT32);
        let types = CooperativeMatrixPropertiesKHR::default().a_type(byte).b_type(byte).c_type(word).result_type(word);
        types.scope(ScopeKHR::SUBGROUP).m_size(m).n_size(n).k_size(k)
    }

    #[test]
    fn the_largest_shape_that_fits() {
        let shape = |m, n, k| Some(Shape { m, n, k });
        assert_eq!(largest(&[of([16, 8, 32]), of([16, 16, 32]), of([16, 16, 16])]), shape(16, 16, 32));
        assert_eq!(
            largest(&[of([8, 8, 8]), of([32, 32, 32]), of([16, 16, 64]), of([0, 16, 16]), of([16, 4, 32])]),
            shape(8, 8, 8)
        );
        assert_eq!(largest(&[]), None);
        let others = [
            of([16; 3]).a_type(ComponentTypeKHR::UINT8),
            of([16; 3]).b_type(ComponentTypeKHR::FLOAT16),
            of([16; 3]).c_type(ComponentTypeKHR::FLOAT32),
            of([16; 3]).result_type(ComponentTypeKHR::UINT32),
            of([16; 3]).saturating_accumulation(true),
            of([16; 3]).scope(ScopeKHR::WORKGROUP),
        ];
        assert_eq!(largest(&others), None);
    }
}
