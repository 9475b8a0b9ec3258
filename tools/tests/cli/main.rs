//! `fabric-main` as its users see it.

mod chat;
mod completion;
mod errors;
mod flags;
mod grammar;
mod kv_cache;
mod logits;
mod run;
