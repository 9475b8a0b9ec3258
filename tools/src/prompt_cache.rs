//! `--prompt-cache`: what a prompt was turned into, kept in a file from run to run.

use crate::Error;
use crate::log::Log;
use crate::session::Session;
use fabric_engine::kv_cache::{CacheFile, CacheFileError};
use std::path::PathBuf;

/// A file that a prompt is read from and written to.
pub struct PromptCache {
    path: PathBuf,
    all: bool,
    read_only: bool,
    stored: Option<CacheFile>,
    /// Whether the prompt is to be written once it has been run.
    prompt_waits: bool,
}

impl PromptCache {
    /// Opens the file, if it is there. `all`: generated text is written too; `read_only`: nothing is written.
    ///
    /// # Errors
    /// Where the file is there and cannot be used.
    pub fn open(path: PathBuf, all: bool, read_only: bool, session: &Session, log: &Log) -> Result<PromptCache, Error> {
        log.info(format_args!("attempting to load saved session from '{}'", path.display()));
        let stored = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                log.info("session file does not exist, will create.");
                None
            }
            Ok(file) if file.len() == 0 => {
                log.info("the session file is empty, a new session will be initialized.");
                None
            }
            _ => Some(session.open_cache(&path).map_err(|source| unusable(&path, source))?),
        };
        if let Some(stored) = &stored {
            log.info(format_args!("loaded a session with prompt size of {} tokens", stored.tokens().len()));
        }
        Ok(PromptCache { path, all, read_only, stored, prompt_waits: true })
    }

    /// The tokens in the file, until [`begin`](Self::begin).
    pub fn tokens(&self) -> &[u32] {
        self.stored.as_ref().map(CacheFile::tokens).unwrap_or_default()
    }

    /// Makes `tokens` the session's text; what it has in common with the file at its beginning need not be run.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn begin(&mut self, session: &mut Session, tokens: &[u32], log: &Log) -> Result<(), Error> {
        let Some(stored) = self.stored.take() else {
            session.replace(tokens);
            return Ok(());
        };
        let (n, same) = (tokens.len(), stored.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count());
        self.prompt_waits = same < n;
        if same == n {
            log.info("session file has exact match for prompt!");
        } else if same < n / 2 {
            log.warning(format_args!(
                "session file has low similarity to prompt ({same} / {n} tokens); will mostly be reevaluated"
            ));
        } else {
            log.info(format_args!("session file matches {same} / {n} tokens of prompt"));
        }
        session.restore(&stored, same).map_err(|source| unusable(&self.path, source))?;
        session.replace(tokens);
        Ok(())
    }

    /// The first prompt has been run: writes it, unless it came from the file. Without a word, as the text goes on here.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn prompt_done(&mut self, session: &Session) -> Result<(), Error> {
        if std::mem::take(&mut self.prompt_waits) && !self.read_only {
            self.save(session)?;
        }
        Ok(())
    }

    /// The session is at its end: writes all of it, if that was asked for.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn end(&mut self, session: &Session, log: &Log) -> Result<(), Error> {
        if self.all && !self.read_only {
            let path = self.path.display();
            match self.save(session)? {
                None => log.info(format_args!("the context was shifted: '{path}' is not written again")),
                Some(n) => log.info(format_args!("saved {n} tokens to session file '{path}'")),
            }
        }
        Ok(())
    }

    /// The number of tokens; `None` where they cannot be stored.
    fn save(&self, session: &Session) -> Result<Option<usize>, Error> {
        let saved = session.save_cache(&self.path).transpose();
        saved.map_err(|source| Error::SavePromptCache { path: self.path.clone(), source })
    }
}

fn unusable(path: &std::path::Path, source: CacheFileError) -> Error {
    Error::PromptCache { path: path.into(), source }
}
