//! `fabric-main` as its users see it.

mod chat;
mod completion;
mod errors;
mod flags;
mod kv_cache;
mod grammar;
mod logits;
mod run;
