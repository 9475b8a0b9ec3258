//! Takes bytes as a file with an importance matrix and uses all of it. What this finds becomes a test.
#![no_main]

use fabric_engine::imatrix::Imatrix;
use gguf::Gguf;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::from_bytes(bytes.to_vec()) else { return };
    let Ok(mut matrix) = Imatrix::from_gguf(&file) else { return };
    let importances = matrix.importances();
    for (name, entry) in &matrix.entries {
        assert_eq!(importances[name].len(), entry.sums.len());
        assert!(importances[name].iter().all(|v| *v >= 0.0));
    }
    let other = matrix.clone();
    matrix.add(&other).expect("the same entries");
});
