//! `docs/dropin.md` says what the code says. After a change on purpose: `FABRIC_WRITE_DOCS=1 cargo test -p fabric-tools --test dropin`.

use clap::{Command, CommandFactory};
use fabric_engine::arch::ARCHITECTURES;
use fabric_engine::quantize::FType;
use fabric_tools::args::absent::{Absent, MAIN, Policy};
use fabric_tools::args::argv::spellings;
use fabric_tools::args::{bench, export_lora, gguf as gguf_args, imatrix, perplexity, quantize, tokenize};
use fabric_tools::cmd::main::MainArgs;
use gguf::GgmlType;
use std::fmt::Write;
use std::path::Path;

const INTRO: &str = "\
# Drop-in for llama.cpp

Which of llama.cpp's programs, flags, types and architectures work here. A test makes this file from the tables that the programs
themselves use (`tools/tests/dropin.rs`), so it does not drift.

- same: as in llama.cpp.
- without effect: accepted, with a warning on stderr if it asks for something else; the output is what it would be.
- only: accepted with these values, which change nothing; refused with others.
- refused: an error that says why, exit status 1.
- own: llama.cpp has no such flag.

Standard output has results only, and standard error has messages. Exit status: 0, 1 for what fails, 2 for a wrong command line (llama.cpp: 1), 130
for Ctrl-C. Underscores in flags with two dashes are hyphens (`--n_predict`). llama-perplexity ends with 0 where the text is too short; here that is 1.

";

/// Measured by hand, and not by the test: `tests/fixtures/types/compare.py`.
const TYPES: &str = "
On the same files both engines compute the same up to last bits (docs/numerics.md). Mean KL divergence and how often the most probable token
is the same, over 5,184 tokens of the King James Bible, with all matrices of the small model's layers in the type; \"exact\" is the same file with its
weights in F32, which rounds no activations. RMSE: of weights drawn from a normal distribution with sigma 0.02, quantized by each program, whose
files are the same byte for byte. By `tests/fixtures/types/compare.py`.

| type | llama.cpp to here | to itself without flash attention | exact to here | exact to llama.cpp | RMSE, here | RMSE, llama.cpp |
|---|---|---|---|---|---|---|
| Q8_0 | 1.3e-05, 99.85% | 2.1e-05, 99.75% | 4.3e-05, 99.54% | 4.3e-05, 99.54% | 1.0698e-04 | 1.0698e-04 |
| Q4_0 | 1.3e-05, 99.83% | 2.0e-05, 99.71% | 4.1e-05, 99.58% | 4.1e-05, 99.56% | 1.7182e-03 | 1.7182e-03 |
| Q4_1 | 2.3e-05, 99.65% | 2.2e-05, 99.69% | 4.5e-05, 99.42% | 4.5e-05, 99.42% | 1.5640e-03 | 1.5640e-03 |
| Q5_0 | 1.3e-05, 99.56% | 2.1e-05, 99.59% | 4.1e-05, 99.19% | 4.1e-05, 99.36% | 8.5312e-04 | 8.5312e-04 |
| Q5_1 | 2.4e-05, 99.46% | 2.2e-05, 99.71% | 4.5e-05, 99.23% | 4.4e-05, 99.27% | 7.5688e-04 | 7.5688e-04 |
| Q2_K | 3.5e-05, 99.61% | 6.2e-05, 99.42% | 1.3e-04, 99.04% | 1.3e-04, 98.86% | 5.9297e-03 | 5.9297e-03 |
| Q3_K | 3.5e-05, 99.42% | 5.9e-05, 99.32% | 1.3e-04, 98.88% | 1.3e-04, 98.80% | 3.0155e-03 | 3.0155e-03 |
| Q4_K | 3.5e-05, 99.69% | 5.9e-05, 99.32% | 1.3e-04, 98.96% | 1.3e-04, 98.96% | 1.4263e-03 | 1.4263e-03 |
| Q5_K | 3.5e-05, 99.61% | 6.0e-05, 99.27% | 1.3e-04, 99.04% | 1.3e-04, 99.04% | 7.2219e-04 | 7.2219e-04 |
| Q6_K | 3.3e-05, 99.48% | 5.8e-05, 99.38% | 1.3e-04, 99.05% | 1.3e-04, 99.02% | 3.5496e-04 | 3.5496e-04 |
| IQ4_NL | 1.4e-05, 99.75% | 2.1e-05, 99.65% | 4.4e-05, 99.40% | 4.5e-05, 99.42% | 1.5222e-03 | 1.5222e-03 |
| IQ4_XS | 3.4e-05, 99.63% | 5.7e-05, 99.48% | 1.3e-04, 99.21% | 1.3e-04, 99.31% | 1.5340e-03 | 1.5340e-03 |
| MXFP4 | 1.3e-05, 99.73% | 2.1e-05, 99.69% | 4.1e-05, 99.56% | 4.1e-05, 99.67% | 2.2826e-03 | 2.2826e-03 |
| TQ1_0 | 1.9e-04, 98.92% | 5.8e-05, 99.36% | 1.9e-04, 98.71% | 1.3e-04, 99.00% | 1.6140e-02 | 1.6140e-02 |
| TQ2_0 | 1.9e-04, 98.92% | 5.8e-05, 99.36% | 1.9e-04, 98.71% | 1.3e-04, 99.00% | 1.6140e-02 | 1.6140e-02 |

Ternary weights are multiplied with activations that have one scale per token, as BitNet was trained, and in llama.cpp one per 256 (docs/numerics.md).
";

const FILES: &str = "
## Files

GGUF of versions 2 and 3, little-endian, in one file or split; big-endian files are refused by name (llama.cpp refuses them as well). Log-probabilities of
`--kl-divergence-base` are llama.cpp's, both ways. Importance matrices are GGUF; the format before that (`.dat`) is refused, and `llama-imatrix --in-file
OLD.dat -o NEW.gguf` converts it. Prompt caches (`--prompt-cache`) are not llama.cpp's.
";

/// Flags that llama.cpp's tool of the same kind does not have.
const OWN: &[&str] =
    &["simd", "logits-file", "floor", "vk-max-binding", "vk-max-memory", "vk-timeout", "profile", "fallback"];

/// Here, there, flags here, and those of llama.cpp that are absent here.
fn tools() -> Vec<(&'static str, &'static str, Command, &'static [Absent])> {
    vec![
        ("fabric-main", "llama-cli, llama-completion", MainArgs::command(), MAIN),
        ("fabric-perplexity", "llama-perplexity", perplexity::PerplexityArgs::command(), &perplexity::ABSENT),
        ("fabric-bench", "llama-bench", bench::BenchArgs::command(), bench::ABSENT),
        ("fabric-imatrix", "llama-imatrix", imatrix::ImatrixArgs::command(), &imatrix::ABSENT),
        ("fabric-quantize", "llama-quantize", quantize::QuantizeArgs::command(), quantize::ABSENT),
        ("fabric-tokenize", "llama-tokenize", tokenize::TokenizeArgs::command(), tokenize::ABSENT),
        ("fabric-export-lora", "llama-export-lora", export_lora::ExportLoraArgs::command(), export_lora::ABSENT),
        ("fabric-gguf split, merge", "llama-gguf-split", gguf_args::SplitArgs::command(), gguf_args::SPLIT_ABSENT),
        ("fabric-gguf hash", "llama-gguf-hash", gguf_args::HashArgs::command(), gguf_args::HASH_ABSENT),
    ]
}

/// Fit for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

fn render() -> String {
    let mut out = INTRO.to_string();
    out.push_str("## Programs\n\n| llama.cpp | here |\n|---|---|\n");
    for (here, there, ..) in tools() {
        let _ = writeln!(out, "| {there} | `{here}` |");
    }
    out.push_str("| llama-finetune-lora | `fabric-finetune`, whose flags are mostly its own: see its `--help` |\n");
    for (here, there, mut command, absent) in tools() {
        command.build();
        let _ = write!(out, "\n## Flags of {here} ({there})\n\n| flag | | |\n|---|---|---|\n");
        for arg in command.get_arguments().filter(|a| !a.is_positional() && !a.is_hide_set()) {
            let names: Vec<_> = spellings(arg).into_iter().map(|(s, _)| format!("`{s}`")).collect();
            let own = arg.get_long().is_some_and(|long| OWN.contains(&long));
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(out, "| {} | {} | {} |", names.join(" "), if own { "own" } else { "same" }, cell(&help));
        }
        for row in absent {
            let names: Vec<_> = row.spellings.iter().map(|s| format!("`{s}`")).collect();
            let (status, why) = match row.policy {
                Policy::Silent => ("same".into(), "it asks for what is done anyway"),
                Policy::Ignored(why) => ("without effect".into(), why),
                Policy::Only(values, why) => (format!("only {}", values.join(", ")), why),
                Policy::Refused(why) => ("refused".into(), why),
            };
            let _ = writeln!(out, "| {} | {status} | {} |", names.join(" "), cell(why));
        }
    }
    out.push_str(
        "\n## Types of tensors\n\nAll are shown, copied, split and hashed. Computed with and converted from:\n",
    );
    let (computed, other): (Vec<_>, Vec<_>) = GgmlType::ALL.iter().partition(|&&ty| ggml_ops::quants::supported(ty));
    let list = |types: Vec<&GgmlType>| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    // Loaded as another type: `engine/src/i2_s.rs`.
    let (loaded, other): (Vec<_>, Vec<_>) = other.into_iter().partition(|&&ty| ty == GgmlType::I2_S);
    let _ = writeln!(out, "{}.\n\nComputed with, as TQ2_0: {}.", list(computed), list(loaded));
    let _ = writeln!(out, "\nNamed in an error where a model has them: {}.", list(other));
    let ftypes: Vec<_> = FType::ALL.iter().map(|f| f.name()).collect();
    let _ = writeln!(out, "\n`fabric-quantize` writes {} and COPY.", ftypes.join(" "));
    out.push_str(TYPES);
    out.push_str(FILES);
    let archs: Vec<_> = ARCHITECTURES.iter().map(|a| format!("`{}`", a.name())).collect();
    let _ = writeln!(out, "\n## Architectures\n\n{}.", archs.join(" "));
    out.push_str(
        "\n`phi3` has the sliding window that its file names (`phi3.attention.sliding_window`), as the model was trained; llama.cpp leaves it \
         out, with a warning: `--override-kv phi3.attention.sliding_window=int:0` does the same. The factors of RoPE for long contexts are taken \
         where the context (`-c`) is longer than `phi3.rope.scaling.original_context_length`, as in llama.cpp.\n",
    );
    out
}

#[test]
fn docs_say_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/dropin.md");
    let expected = render();
    if std::env::var_os("FABRIC_WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let got = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = expected.lines().zip(got.lines()).find(|(a, b)| a != b);
    assert!(got == expected, "docs/dropin.md is not up to date (see this file's first line): {differs:?}");
}

/// Those of llama-perplexity that scripts use, from its documentation.
const LLAMA_PERPLEXITY: &str = "
-m --model -f --file -p --prompt -bf --binary-file -c --ctx-size -b --batch-size -ub --ubatch-size -t --threads -tb --threads-batch
-e --escape --no-escape --chunks --ppl-stride --ppl-output-type --hellaswag --hellaswag-tasks --winogrande --winogrande-tasks
--multiple-choice --multiple-choice-tasks --kl-divergence --kl-divergence-base --save-all-logits -ngl --gpu-layers --n-gpu-layers
-fa --flash-attn -ctk --cache-type-k -ctv --cache-type-v -np --parallel -lm --load-mode --mmap --no-mmap --mlock --numa -dev --device
-sm --split-mode -ts --tensor-split -mg --main-gpu -fit --fit -ot --override-tensor --override-kv --check-tensors --repack --lora --lora-scaled
--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --perf --no-perf --warmup --no-warmup
-s --seed --temp -n --predict --keep --log-file --log-disable --log-colors -v --verbose -lv --offline --list-devices --version -h --help
";

#[test]
fn flags_of_llama_perplexity_are_known_once() {
    let mut command = perplexity::PerplexityArgs::command();
    command.build();
    let here = command.get_arguments().flat_map(|a| spellings(a).into_iter().map(|(s, _)| s));
    let absent = perplexity::ABSENT.iter().flat_map(|row| row.spellings.iter().map(ToString::to_string));
    let all: Vec<String> = here.chain(absent).collect();
    let known: std::collections::HashSet<&str> = all.iter().map(String::as_str).collect();
    let twice: Vec<_> = known.iter().filter(|k| all.iter().filter(|s| s == *k).count() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let missing: Vec<_> = LLAMA_PERPLEXITY.split_whitespace().filter(|f| !known.contains(f)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
