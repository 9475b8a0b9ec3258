//! Which LoRA adapters are used.

use clap::Args;
use std::path::PathBuf;

/// Flags of adapters.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Adapters")]
pub struct AdapterArgs {
    /// LoRA adapters to use (GGUF files, or folders that PEFT wrote); may be given several times, and all work at once
    #[arg(long, value_name = "FILE,...", value_parser = files)]
    pub lora: Vec<std::vec::Vec<PathBuf>>,
    /// The same, each with a factor of its own; FILE SCALE is understood as well
    #[arg(long, value_name = "FILE:SCALE,...", value_parser = scaled, num_args = 1..=2)]
    pub lora_scaled: Vec<std::vec::Vec<(PathBuf, f32)>>,
}

impl AdapterArgs {
    /// All files with their scales.
    pub fn all(&self) -> Vec<(PathBuf, f32)> {
        let AdapterArgs { lora, lora_scaled } = self;
        let plain = lora.iter().flatten().map(|path| (path.clone(), 1.0));
        plain.chain(lora_scaled.iter().flatten().cloned()).collect()
    }
}

fn files(text: &str) -> Result<Vec<PathBuf>, String> {
    let file = |f: &str| if f.is_empty() { Err("expected the name of a file".to_string()) } else { Ok(f.into()) };
    text.split(',').map(file).collect()
}

fn scaled(text: &str) -> Result<Vec<(PathBuf, f32)>, String> {
    let pair = |text: &str| {
        // The last colon: a path may have others.
        let (file, scale) = text.rsplit_once(':').filter(|(file, _)| !file.is_empty())?;
        Some((file.into(), scale.parse().ok().filter(|s: &f32| s.is_finite())?))
    };
    let form = || "expected FILE:SCALE, as in adapter.gguf:0.5".to_string();
    text.split(',').map(|t| pair(t).ok_or_else(form)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_files_and_scales() {
        assert_eq!(files("a,b c"), Ok(vec!["a".into(), "b c".into()]));
        assert!(files("").is_err() && files("a,").is_err());
        assert_eq!(scaled("a:0.5,C:\\b:-2"), Ok(vec![("a".into(), 0.5), ("C:\\b".into(), -2.0)]));
        for bad in ["", "a", "a:", ":1", "a:x", "a:nan", "a:inf", "a:1,b"] {
            assert!(scaled(bad).is_err(), "{bad}");
        }
    }
}
