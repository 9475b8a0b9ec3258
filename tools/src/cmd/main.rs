//! `fabric-main`: completes a text, or holds a conversation.

mod complete;
mod sampler;

use crate::args;
use crate::args::absent::MAIN;
use crate::args::adapter::AdapterArgs;
use crate::args::chat::{ChatArgs, TypingArgs};
use crate::args::context::ContextArgs;
use crate::args::device::DeviceArgs;
use crate::args::generation::GenerationArgs;
use crate::args::grammar::GrammarArgs;
use crate::args::logging::LoggingArgs;
use crate::args::model::ModelArgs;
use crate::args::sampling::SamplingArgs;
use crate::chat::{Chat, ChatOptions};
use crate::fallback::{Fallback, Resilient};
use crate::generate::{Stop, StopTexts};
use crate::line_editor::LineEditor;
use crate::load::Loaded;
use crate::log::Log;
use crate::output::{Output, Style};
use crate::perf::Perf;
use crate::prompt_cache::PromptCache;
use crate::session::Session;
use crate::{Error, device, escape, grammar, interrupt, load, prompt};
use clap::{ArgMatches, Parser};
use fabric_engine::Model;
use fabric_engine::chat_template::ChatTemplate;
use fabric_engine::grammar::Matcher;
use fabric_engine::sampler::{SamplerChain, SamplerParams, SamplerVocab};
use serde_json::{Map, Value as Json};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

const EXAMPLES: &str = "\
Examples
  fabric-main                                        try the small model
  fabric-main -m model.gguf -p \"Once upon a time\" -n 100
  fabric-main -m model.gguf -cnv -sys \"You are brief.\"
  fabric-main -m model.gguf --lora adapter.gguf -p \"Once upon a time\"
  fabric-main -m model.gguf -p \"A user: \" --json-schema-file schema.json
  fabric-main -m model.gguf -f prompt.txt -n 0 --logits-file logits.npy";

/// Runs a language model (GGUF): completes a text, or holds a conversation. The text goes to standard output, all
/// messages go to standard error.
#[derive(Parser, Debug)]
#[command(name = "fabric-main", version, after_help = EXAMPLES)]
pub struct MainArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    typing: TypingArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    grammar: GrammarArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    logging: LoggingArgs,
}

/// Runs the tool; the first of `argv` is the program's name.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    args::run(argv, MAIN, |args: &MainArgs| &args.logging, Main::run)
}

/// What all ways to run share.
struct Main<'a> {
    args: &'a MainArgs,
    log: &'a Log,
    sampler: (SamplerParams, SamplerVocab),
    grammar: Option<Matcher>,
    prompt: Option<Vec<u8>>,
}

impl Main<'_> {
    fn run(args: &MainArgs, matches: &ArgMatches, log: &Log) -> Result<ExitCode, Error> {
        if args.device.list_devices {
            return device::list().map(|()| ExitCode::SUCCESS);
        }
        interrupt::listen();
        let mut perf = Perf::since(Instant::now());
        let kwargs = template_kwargs(&args.chat)?;
        let prompt = prompt::given(&args.generation)?;
        let grammar = grammar::given(&args.grammar, log)?;
        let mut options = args.context.options();
        // Short prompts need no large graph, which would only take memory.
        options.n_ubatch = options.n_ubatch.min(args.context.batch_size as usize);
        let loaded = load::load(&args.model, &args.device, Some(options), log)?;
        let fallback = Fallback::new(&loaded, &args.model, &args.device, log);
        let Loaded { model, gpu } = loaded;
        let trained = model.hparams().n_ctx_train;
        if options.n_ctx > trained {
            log.warning(format_args!(
                "the context (-c {}) is larger than the {trained} tokens that the model was trained for",
                options.n_ctx
            ));
        }
        let runs = Resilient::new(&model, options, &args.adapter, fallback, log)?;
        let mut session = Session::new(&model, runs, args.context.batch_size as usize, perf.clone())?;
        let sampler = sampler::from_flags(args, &model, matches, session.n_ctx(), log)?;
        let grammar = grammar.map(|given| given.matcher(session.vocab())).transpose()?;
        if args.generation.warmup {
            session.warm_up()?;
        }
        perf.loaded();
        session.perf = perf;
        let mut prompt_cache = open_prompt_cache(args, &session, log)?;
        let main = Main { args, log, sampler, grammar, prompt };
        let mut out = Output::new(std::io::stdout().lock(), args.typing.color.applies(std::io::stdout().is_terminal()));
        let status = match main.template(&model)? {
            Some(template) => main.chat(&mut session, &mut out, template, kwargs, prompt_cache.as_mut()),
            None => main.complete(&mut session, &mut out, prompt_cache.as_mut()),
        };
        // Also where somebody pressed Ctrl-C, or the reader of standard output went away.
        let status = match (status, &mut prompt_cache) {
            (status, Some(cache)) if status.as_ref().err().is_none_or(Error::is_closed_output) => {
                cache.end(&session, log).and(status)
            }
            (status, _) => status,
        };
        // The terminal keeps no color, whatever happened.
        let reset = out.style(Style::Plain);
        if args.logging.perf && !matches!(&status, Err(e) if !e.is_closed_output()) {
            log.info(format_args!("\n{}", session.perf));
        }
        device::tell_profile(&args.device.gpu, gpu.as_ref());
        reset.and(status)
    }

    /// The chat template, if a conversation is to be held.
    fn template(&self, model: &Model) -> Result<Option<ChatTemplate>, Error> {
        let ChatArgs { conversation, chat_template, chat_template_file, .. } = &self.args.chat;
        let metadata = model.metadata().str(gguf::key::TOKENIZER_CHAT_TEMPLATE)?;
        let named = chat_template.is_some() || chat_template_file.is_some();
        let wanted =
            conversation.unwrap_or((metadata.is_some() || named) && self.args.generation.logits_file.is_none());
        let Some(vocab) = model.vocab().filter(|_| wanted) else {
            return Ok(None);
        };
        let text = |id: Option<u32>| {
            let piece = id.map(|id| vocab.token_to_piece(id, true)).unwrap_or_default();
            String::from_utf8_lossy(&piece).into_owned()
        };
        let (bos, eos) = (text(vocab.bos()), text(vocab.eos()));
        let template = match (chat_template_file, chat_template, metadata) {
            (Some(path), ..) => ChatTemplate::new(&prompt::read_text(path)?, &bos, &eos)?,
            (None, Some(text), _) => ChatTemplate::by_name_or_source(text, &bos, &eos)?,
            (None, None, Some(source)) => ChatTemplate::new(source, &bos, &eos)?,
            (None, None, None) => {
                self.log.warning("the model has no chat template: using ChatML, which it may not know");
                ChatTemplate::default_for(&bos, &eos)?
            }
        };
        Ok(Some(template))
    }

    /// Whether a full context is shifted; with -n -2 it is where the text ends.
    fn shifts(&self) -> bool {
        self.args.context.context_shift && self.args.generation.predict != -2
    }

    fn n_predict(&self) -> Option<usize> {
        // -1: no limit, -2: until the context is full, which is where every text ends that is not shifted.
        usize::try_from(self.args.generation.predict).ok()
    }

    fn stops(&self) -> StopTexts {
        StopTexts::new(self.args.generation.reverse_prompt.iter().map(|t| self.unescape(t).into_bytes()))
    }

    fn unescape(&self, text: &str) -> String {
        unescape(text, self.args.generation.escape)
    }

    fn chat<W: Write>(
        &self,
        session: &mut Session,
        out: &mut Output<W>,
        template: ChatTemplate,
        kwargs: Map<String, Json>,
        prompt_cache: Option<&mut PromptCache>,
    ) -> Result<ExitCode, Error> {
        let ChatArgs { system_prompt, system_prompt_file, single_turn, show_timings, .. } = &self.args.chat;
        if self.args.generation.logits_file.is_some() {
            return Err(Error::Usage("--logits-file is for completions: give -no-cnv too".into()));
        }
        let system = match (system_prompt_file, system_prompt) {
            (Some(path), _) => Some(prompt::read_text(path)?),
            (None, Some(text)) => Some(self.unescape(text)),
            (None, None) => None,
        };
        self.tell_generation(session, 0);
        let options = ChatOptions {
            template,
            kwargs,
            system,
            sampler: self.sampler.clone(),
            grammar: self.grammar.clone(),
            n_predict: self.n_predict(),
            stops: self.stops(),
            special: self.args.generation.special,
            show_timings: *show_timings,
            keep: self.shifts().then_some(self.args.context.keep),
        };
        let mut chat = Chat::new(session, out, self.log, options, prompt_cache);
        let mut editor = LineEditor::new(self.args.typing.simple_io, self.args.typing.multiline_input);
        let mut stop = None;
        if let Some(prompt) = &self.prompt {
            stop = Some(chat.first(&String::from_utf8_lossy(prompt))?);
        }
        if !single_turn {
            chat.talk(&mut editor)?;
        } else if stop.is_none() {
            stop = chat.one(&mut editor)?;
        }
        Ok(status_of(stop.filter(|_| *single_turn)))
    }

    /// Seed, samplers and limits, in llama.cpp's words.
    fn tell_generation(&self, session: &Session, n_prompt: usize) {
        let (params, vocab) = &self.sampler;
        let log = self.log;
        log.info(format_args!("sampler seed: {}", params.seed));
        log.info(format_args!("sampler params: \n{}", sampler::describe(params)));
        if let Ok(chain) = SamplerChain::new(params, vocab) {
            log.info(format_args!("sampler chain: {}", chain.describe()));
        }
        let n_keep = session.n_keep(self.args.context.keep, n_prompt);
        log.info(format_args!(
            "generate: n_ctx = {}, n_batch = {}, n_predict = {}, n_keep = {n_keep}\n",
            session.n_ctx(),
            self.args.context.batch_size,
            self.args.generation.predict
        ));
    }
}

fn open_prompt_cache(args: &MainArgs, session: &Session, log: &Log) -> Result<Option<PromptCache>, Error> {
    let ContextArgs { prompt_cache, prompt_cache_all, prompt_cache_ro, .. } = &args.context;
    let Some(path) = prompt_cache else { return Ok(None) };
    if args.generation.logits_file.is_some() {
        return Err(Error::Usage(
            "--logits-file and --prompt-cache exclude each other: all tokens have to be run".into(),
        ));
    }
    PromptCache::open(path.clone(), *prompt_cache_all, *prompt_cache_ro, session, log).map(Some)
}

fn status_of(stop: Option<Stop>) -> ExitCode {
    match stop {
        Some(Stop::Interrupted) => ExitCode::from(interrupt::INTERRUPTED),
        _ => ExitCode::SUCCESS,
    }
}

fn unescape(text: &str, escapes: bool) -> String {
    if !escapes {
        return text.into();
    }
    let bytes = escape::process(text.as_bytes());
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn template_kwargs(args: &ChatArgs) -> Result<Map<String, Json>, Error> {
    let Some(text) = &args.chat_template_kwargs else {
        return Ok(Map::new());
    };
    match serde_json::from_str(text) {
        Ok(Json::Object(map)) => Ok(map),
        Ok(_) => Err(Error::Usage(format!("--chat-template-kwargs: '{text}' is no JSON object"))),
        Err(e) => Err(Error::Usage(format!("--chat-template-kwargs: {e}"))),
    }
}
