//! `fabric-main` as its users see it.

mod chat;
mod completion;
mod errors;
mod flags;
mod logits;
mod run;
