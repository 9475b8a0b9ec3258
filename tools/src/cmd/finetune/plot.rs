//! The loss over the steps, as a picture.

use fabric_engine::train::checkpoint::Progress;
use plotters::prelude::*;
use plotters::style::FontStyle;
use std::path::Path;
use std::sync::Once;

/// DejaVu Sans, the ASCII part of it: a picture must not depend on the fonts of the machine.
static FONT: &[u8] = include_bytes!("../../../assets/DejaVuSans-ASCII.ttf");

const SIZE: (u32, u32) = (960, 540);
const FAMILY: &str = "sans-serif";
const LOSS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const VALIDATION: RGBColor = RGBColor(0xd6, 0x27, 0x28);

/// Draws the loss of each step, its running mean and the validation losses. The file's name says whether SVG or PNG.
pub(super) fn loss_curve(path: &Path, progress: &Progress) -> Result<(), Box<dyn std::error::Error>> {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // Fails for a broken font only, and then drawing text does.
        let _ = plotters::style::register_font(FAMILY, FontStyle::Normal, FONT);
    });
    if path.extension().is_some_and(|e| e == "svg") {
        draw(&SVGBackend::new(path, SIZE).into_drawing_area(), progress)
    } else {
        draw(&BitMapBackend::new(path, SIZE).into_drawing_area(), progress)
    }
}

fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    progress: &Progress,
) -> Result<(), Box<dyn std::error::Error>>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let points: Vec<(f64, f64)> =
        progress.losses.iter().enumerate().map(|(i, &l)| (i as f64 + 1.0, f64::from(l))).collect();
    let validation: Vec<(f64, f64)> = progress.val_losses.iter().map(|&(s, l)| (s as f64, f64::from(l))).collect();
    let all = points.iter().chain(&validation).map(|p| p.1).filter(|l| l.is_finite());
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), l| (a.min(l), b.max(l)));
    let margin = ((high - low) * 0.05).max(1e-3);
    let steps = points.len().max(2) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption("Loss", (FAMILY, 24))
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(1.0..steps, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("step")
        .y_desc("cross-entropy, nats per token")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .label_style((FAMILY, 14))
        .axis_desc_style((FAMILY, 15))
        .draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), LOSS.mix(0.3)))?;
    chart
        .draw_series(LineSeries::new(running_mean(&points), LOSS.stroke_width(2)))?
        .label("training, running mean")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], LOSS.stroke_width(2)));
    if !validation.is_empty() {
        chart
            .draw_series(LineSeries::new(validation, VALIDATION.stroke_width(2)).point_size(4))?
            .label("validation")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], VALIDATION.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font((FAMILY, 15))
        .draw()?;
    area.present()?;
    Ok(())
}

/// Exponential, over about a twentieth of the steps.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 20.0).clamp(1.0, 100.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|&(x, y)| {
            (sum, weight) = (sum * keep + y, weight * keep + 1.0);
            (x, sum / weight)
        })
        .collect()
}
