//! Which file an adapter was made for.

use gguf::{Gguf, Metadata, key};
use sha2::{Digest, Sha256};

/// Name of the model: `str`.
const NAME: &str = "fabric.base_model.name";
/// SHA-256 of the model's file, of a split one of all files in order, in hexadecimal: `str`.
const SHA256: &str = "fabric.base_model.sha256";
/// SHA-256 of samples of the file, in hexadecimal: `str`.
const FINGERPRINT: &str = "fabric.base_model.fingerprint";

/// Samples that a fingerprint takes of each file.
const SAMPLES: usize = 256;
/// Bytes of a sample.
const SAMPLE: usize = 4096;

/// Which file an adapter was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseModel {
    /// `general.name`.
    pub name: Option<String>,
    /// SHA-256 of the file in hexadecimal; of a split model that of all its files in order.
    pub sha256: Option<String>,
    /// SHA-256 of the file's length and of samples of it: tells files apart without reading them whole.
    pub fingerprint: Option<String>,
}

impl BaseModel {
    /// This model. Reads the whole file: a second or so for each GB.
    pub fn of(model: &Gguf) -> BaseModel {
        BaseModel { sha256: Some(sha256(model)), ..BaseModel::named(model) }
    }

    /// This model without the hash of the whole file.
    pub fn named(model: &Gguf) -> BaseModel {
        let name = model.metadata().str(key::GENERAL_NAME).ok().flatten().map(str::to_owned);
        BaseModel { name, sha256: None, fingerprint: Some(fingerprint(model)) }
    }

    /// What an adapter's file says; `None` if it says nothing.
    ///
    /// # Errors
    /// A key of another type.
    pub(super) fn read(metadata: &Metadata) -> Result<Option<BaseModel>, gguf::Error> {
        let get = |key| Ok::<_, gguf::Error>(metadata.str(key)?.map(str::to_owned));
        let base = BaseModel { name: get(NAME)?, sha256: get(SHA256)?, fingerprint: get(FINGERPRINT)? };
        Ok((base != BaseModel::default()).then_some(base))
    }

    pub(super) fn write(&self, metadata: &mut Metadata) {
        for (key, value) in [(NAME, &self.name), (SHA256, &self.sha256), (FINGERPRINT, &self.fingerprint)] {
            if let Some(value) = value {
                metadata.insert(key, value.as_str());
            }
        }
    }

    /// Why `model` is not the one that the adapter was made for; `None` if it is. Reads samples of the file, or all of it if
    /// only its SHA-256 is known.
    pub fn differs_from(&self, model: &Gguf) -> Option<OtherBase> {
        let same = match (&self.fingerprint, &self.sha256) {
            (Some(f), _) => *f == fingerprint(model),
            (None, Some(s)) => *s == sha256(model),
            (None, None) => self.name.is_none() || self.name == BaseModel::named(model).name,
        };
        (!same).then(|| OtherBase { made_for: self.name.clone(), given: BaseModel::named(model).name })
    }
}

/// An adapter is used with another model than the one that it was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherBase {
    /// Name of the model that it was made for.
    pub made_for: Option<String>,
    /// Name of the model that it is used with.
    pub given: Option<String>,
}

impl std::fmt::Display for OtherBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.made_for, &self.given) {
            (Some(a), Some(b)) if a == b => {
                write!(f, "the adapter was trained on another file of model '{a}' than this one")
            }
            (Some(a), Some(b)) => write!(f, "the adapter was trained on model '{a}', and this is '{b}'"),
            (Some(a), None) => {
                write!(f, "the adapter was trained on model '{a}', and this one is another file without a name")
            }
            (None, _) => write!(f, "the adapter was trained on another model file than this one"),
        }?;
        write!(f, ": it may do less than it did there, or harm")
    }
}

fn hex(hash: impl AsRef<[u8]>) -> String {
    hash.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn sha256(model: &Gguf) -> String {
    let mut hash = Sha256::new();
    model.file_contents().for_each(|bytes| hash.update(bytes));
    hex(hash.finalize())
}

/// Files of up to 1 MiB are read whole, of larger ones 256 samples, the first and the last bytes among them.
fn fingerprint(model: &Gguf) -> String {
    let mut hash = Sha256::new();
    for bytes in model.file_contents() {
        hash.update((bytes.len() as u64).to_le_bytes());
        if bytes.len() <= SAMPLES * SAMPLE {
            hash.update(bytes);
            continue;
        }
        let (last, n) = ((bytes.len() - SAMPLE) as u128, SAMPLES as u128 - 1);
        for i in 0..=n {
            let at = (last * i / n) as usize; // at most `last`
            hash.update(&bytes[at..at + SAMPLE]);
        }
    }
    hex(hash.finalize())
}
