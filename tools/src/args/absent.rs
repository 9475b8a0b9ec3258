//! llama.cpp's flags for what is not here: accepted where that cannot change the output, refused where it would.

use super::value::is_yes;
use Policy::{Ignored, Only, Refused, Silent};
use Takes::{Nothing, Optional, Two, Value};

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// One value.
    Value,
    /// Two values.
    Two,
    /// A value if it is one of these.
    Optional(&'static [&'static str]),
}

/// What happens if a flag is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: it asks for what is done anyway.
    Silent,
    /// A warning with the reason.
    Ignored(&'static str),
    /// Nothing for these values, else an error with the reason.
    Only(&'static [&'static str], &'static str),
    /// An error with the reason.
    Refused(&'static str),
}

/// A flag for something that is not here.
#[derive(Clone, Copy, Debug)]
pub struct Absent {
    /// All spellings, the best known first.
    pub spellings: &'static [&'static str],
    /// The environment variable, or an empty string.
    pub env: &'static str,
    /// What follows it.
    pub takes: Takes,
    /// What happens.
    pub policy: Policy,
}

const GPU: Policy = Ignored("-ngl says how many layers run on the GPU, and -mg on which one");
const SCHEDULING: Policy = Ignored("the operating system places and schedules the threads");
const ONE_SEQUENCE: Policy = Ignored("there is one sequence");
const DOWNLOAD: Policy = Refused("nothing is downloaded: fetch the file and name it with -m");
const ADAPTER: Policy = Refused("the model runs as it is in its file");
const MEDIA: Policy = Refused("text is all that models read here");
const YARN: Policy = Only(&["-1", "-1.0", "0"], "positions are scaled linearly or not at all");
const FIT: Policy = Ignored("the context is as large as -c says");
const ON_OFF: &[&str] = &["on", "off", "auto", "enabled", "disabled", "true", "false", "0", "1", "-1"];

const fn row(spellings: &'static [&'static str], env: &'static str, takes: Takes, policy: Policy) -> Absent {
    Absent { spellings, env, takes, policy }
}

/// The flags of llama-cli and llama-completion that `fabric-main` has no field for.
pub const MAIN: &[Absent] = &[
    row(&["-sm", "--split-mode"], "LLAMA_ARG_SPLIT_MODE", Value, GPU),
    row(&["-ts", "--tensor-split"], "LLAMA_ARG_TENSOR_SPLIT", Value, GPU),
    row(&["-kvo", "--kv-offload", "-nkvo", "--no-kv-offload"], "LLAMA_ARG_KV_OFFLOAD", Nothing, GPU),
    row(&["--op-offload", "--no-op-offload"], "", Nothing, GPU),
    row(&["--no-host"], "LLAMA_ARG_NO_HOST", Nothing, GPU),
    row(&["-ot", "--override-tensor"], "LLAMA_ARG_OVERRIDE_TENSOR", Value, GPU),
    row(&["-cmoe", "--cpu-moe"], "LLAMA_ARG_CPU_MOE", Nothing, GPU),
    row(&["-ncmoe", "--n-cpu-moe"], "LLAMA_ARG_N_CPU_MOE", Value, GPU),
    row(&["-fit", "--fit"], "LLAMA_ARG_FIT", Value, FIT),
    row(&["-fitt", "--fit-target"], "LLAMA_ARG_FIT_TARGET", Value, FIT),
    row(&["-fitc", "--fit-ctx"], "LLAMA_ARG_FIT_CTX", Value, FIT),
    row(
        &["-fa", "--flash-attn"],
        "LLAMA_ARG_FLASH_ATTN",
        Optional(ON_OFF),
        Ignored("there is one way to compute attention, with the same result"),
    ),
    row(
        &["-bs", "--backend-sampling"],
        "LLAMA_ARG_BACKEND_SAMPLING",
        Nothing,
        Ignored("tokens are always chosen on the CPU"),
    ),
    row(&["-tb", "--threads-batch"], "", Value, Ignored("prompts run on the threads of -t too")),
    row(&["-C", "--cpu-mask"], "", Value, SCHEDULING),
    row(&["-Cr", "--cpu-range"], "", Value, SCHEDULING),
    row(&["--cpu-strict"], "", Value, SCHEDULING),
    row(&["--prio"], "", Value, SCHEDULING),
    row(&["--poll"], "", Value, SCHEDULING),
    row(&["-Cb", "--cpu-mask-batch"], "", Value, SCHEDULING),
    row(&["-Crb", "--cpu-range-batch"], "", Value, SCHEDULING),
    row(&["--cpu-strict-batch"], "", Value, SCHEDULING),
    row(&["--prio-batch"], "", Value, SCHEDULING),
    row(&["--poll-batch"], "", Value, SCHEDULING),
    row(&["--numa"], "LLAMA_ARG_NUMA", Value, SCHEDULING),
    row(&["-np", "--parallel"], "LLAMA_ARG_N_PARALLEL", Value, ONE_SEQUENCE),
    row(&["-ns", "--sequences"], "", Value, ONE_SEQUENCE),
    row(&["-cb", "--cont-batching", "-nocb", "--no-cont-batching"], "LLAMA_ARG_CONT_BATCHING", Nothing, ONE_SEQUENCE),
    row(&["--check-tensors"], "", Nothing, Ignored("shapes and types are always checked, values are not")),
    row(&["-ptc", "--print-token-count"], "", Value, Ignored("tokens are counted in the timings only")),
    row(&["--offline"], "LLAMA_ARG_OFFLINE", Nothing, Silent),
    row(&["-hft", "--hf-token"], "", Value, Silent),
    row(&["--jinja", "--no-jinja"], "LLAMA_ARG_JINJA", Nothing, Silent),
    row(&["--log-prefix", "--no-log-prefix"], "LLAMA_ARG_LOG_PREFIX", Nothing, Silent),
    row(&["--log-timestamps", "--no-log-timestamps"], "LLAMA_ARG_LOG_TIMESTAMPS", Nothing, Silent),
    row(&["-gan", "--grp-attn-n"], "LLAMA_ARG_GRP_ATTN_N", Value, Only(&["1"], "positions are not grouped")),
    row(&["-gaw", "--grp-attn-w"], "LLAMA_ARG_GRP_ATTN_W", Value, Ignored("positions are not grouped")),
    row(&["--yarn-orig-ctx"], "LLAMA_ARG_YARN_ORIG_CTX", Value, YARN),
    row(&["--yarn-ext-factor"], "LLAMA_ARG_YARN_EXT_FACTOR", Value, YARN),
    row(&["--yarn-attn-factor"], "LLAMA_ARG_YARN_ATTN_FACTOR", Value, YARN),
    row(&["--yarn-beta-fast"], "LLAMA_ARG_YARN_BETA_FAST", Value, YARN),
    row(&["--yarn-beta-slow"], "LLAMA_ARG_YARN_BETA_SLOW", Value, YARN),
    row(&["--control-vector"], "", Value, ADAPTER),
    row(&["--control-vector-scaled"], "", Two, ADAPTER),
    row(&["--control-vector-layer-range"], "", Two, ADAPTER),
    row(
        &["--reasoning-format"],
        "LLAMA_ARG_REASONING_FORMAT",
        Value,
        Only(&["none", "auto"], "the answer is shown as the model writes it"),
    ),
    row(
        &["-rea", "--reasoning"],
        "LLAMA_ARG_REASONING",
        Value,
        Only(
            &["auto"],
            "give the template's variable with --chat-template-kwargs, such as {\"enable_thinking\": false}",
        ),
    ),
    row(&["--reasoning-budget"], "LLAMA_ARG_REASONING_BUDGET", Value, Only(&["-1"], "thinking is not limited")),
    row(&["-mu", "--model-url"], "LLAMA_ARG_MODEL_URL", Value, DOWNLOAD),
    row(&["-hf", "-hfr", "--hf-repo"], "LLAMA_ARG_HF_REPO", Value, DOWNLOAD),
    row(&["-hff", "--hf-file"], "LLAMA_ARG_HF_FILE", Value, DOWNLOAD),
    row(&["-dr", "--docker-repo"], "LLAMA_ARG_DOCKER_REPO", Value, DOWNLOAD),
    row(&["-mm", "--mmproj"], "LLAMA_ARG_MMPROJ", Value, MEDIA),
    row(&["-mmu", "--mmproj-url"], "LLAMA_ARG_MMPROJ_URL", Value, MEDIA),
    row(&["--image"], "", Value, MEDIA),
    row(&["--audio"], "", Value, MEDIA),
    row(&["-md", "--model-draft"], "LLAMA_ARG_MODEL_DRAFT", Value, Refused("no draft model runs beside the model")),
    row(&["--rpc"], "LLAMA_ARG_RPC", Value, Refused("there are no remote devices")),
    row(&["--server-base"], "", Value, Refused("the model runs in this program")),
    row(&["--log-jsonl"], "", Nothing, Refused("messages are plain text")),
];

impl Absent {
    /// What to warn about, or the error.
    ///
    /// # Errors
    /// Why the flag is refused.
    pub fn apply(&self, spelling: &str, value: &str) -> Result<Option<String>, String> {
        match self.policy {
            Silent => Ok(None),
            Ignored(why) => Ok(Some(format!("{spelling} has no effect: {why}"))),
            Only(values, _) if values.contains(&value) => Ok(None),
            Only(values, why) => {
                let takes = values.join(", ");
                Err(format!("{spelling} {value} is not supported: {why} (accepted: {takes})"))
            }
            Refused(why) => Err(format!("{spelling} is not supported: {why}")),
        }
    }

    /// The same for the environment variable. What has no effect is not worth a warning there.
    ///
    /// # Errors
    /// Why the variable is refused.
    pub fn apply_env(&self, value: &str) -> Result<(), String> {
        if self.takes == Nothing && !is_yes(value) {
            return Ok(());
        }
        self.apply(&format!("{} (environment)", self.env), value).map(drop)
    }
}
