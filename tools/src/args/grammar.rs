//! What the generated text must be like.

use clap::Args;
use std::path::PathBuf;

/// Flags of grammars. The last one counts.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Grammar")]
pub struct GrammarArgs {
    /// Generate only what this grammar allows (GBNF, beginning with the rule root)
    #[arg(long, value_name = "GBNF", overrides_with_all = ["grammar_file", "json_schema", "json_schema_file"])]
    pub grammar: Option<String>,
    /// File with a grammar
    #[arg(long, value_name = "FILE", overrides_with_all = ["grammar", "json_schema", "json_schema_file"])]
    pub grammar_file: Option<PathBuf>,
    /// Generate only JSON that this schema allows; {}: any object
    #[arg(short, long, value_name = "SCHEMA", overrides_with_all = ["grammar", "grammar_file", "json_schema_file"])]
    pub json_schema: Option<String>,
    /// File with a JSON schema
    #[arg(long, visible_alias = "jf", value_name = "FILE", overrides_with_all = ["grammar", "grammar_file", "json_schema"])]
    pub json_schema_file: Option<PathBuf>,
}
