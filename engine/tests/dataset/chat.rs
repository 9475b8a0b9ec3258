//! Conversations: the assistant's tokens, whatever the template.

use fabric_engine::chat_template::{BUILTIN_NAMES, ChatTemplate};
use fabric_engine::train::dataset::DatasetOptions;
use fabric_engine::vocab::Vocab;
use serde_json::{Value, json};

use super::{GPT2, LLAMA3, QWEN2, SPM, all_marked, error, load, options};

fn builtin(name: &str) -> String {
    ChatTemplate::by_name(name, "", "").unwrap().source().to_owned()
}

fn published(name: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_template");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn messages(of: &[(&str, &str)]) -> Value {
    json!({"messages": of.iter().map(|(role, content)| json!({"role": role, "content": content})).collect::<Vec<_>>()})
}

/// The conversation as one text in which what the assistant says is in brackets.
fn assistant(vocab: &Vocab, template: &str, conversation: &Value) -> String {
    let options = DatasetOptions { assistant_loss_only: true, ..options() };
    let dataset = load("data.jsonl", conversation.to_string(), vocab, Some(template), &options).unwrap();
    all_marked(vocab, &dataset.train).concat()
}

const TURNS: &[(&str, &str)] =
    &[("system", "Be nice."), ("user", "Hé?"), ("assistant", "Yés."), ("user", "No?"), ("assistant", "🙂 No")];

#[test]
fn chatml_with_and_without_tokens_of_its_own() {
    let chatml = builtin("chatml");
    let expected = "<|im_start|>system\nBe nice.<|im_end|>\n<|im_start|>user\nHé?<|im_end|>\n<|im_start|>assistant\n\
        ⟦Yés.<|im_end|>⟧\n<|im_start|>user\nNo?<|im_end|>\n<|im_start|>assistant\n⟦🙂 No<|im_end|>⟧\n";
    assert_eq!(assistant(&QWEN2, &chatml, &messages(TURNS)), expected);
    // Seven tokens and more for each marker.
    assert!(GPT2.find(b"<|im_end|>").is_none() && SPM.find(b"<|im_end|>").is_none());
    assert_eq!(assistant(&GPT2, &chatml, &messages(TURNS)), expected);
    assert_eq!(assistant(&SPM, &chatml, &messages(TURNS)), format!("<s> {expected}"));
}

#[test]
fn markers_of_other_families() {
    let turns = messages(TURNS);
    let cases: [(&Vocab, String, &str); 7] = [
        (
            &LLAMA3,
            builtin("llama3"),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe nice.<|eot_id|><|start_header_id|>user\
             <|end_header_id|>\n\nHé?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦Yés.<|eot_id|>⟧\
             <|start_header_id|>user<|end_header_id|>\n\nNo?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n\
             ⟦🙂 No<|eot_id|>⟧",
        ),
        (
            &GPT2,
            builtin("gemma"),
            "<start_of_turn>user\nBe nice.\n\nHé?<end_of_turn>\n<start_of_turn>model\n⟦Yés.<end_of_turn>⟧\n\
             <start_of_turn>user\nNo?<end_of_turn>\n<start_of_turn>model\n⟦🙂 No<end_of_turn>⟧\n",
        ),
        (
            &GPT2,
            builtin("zephyr"),
            "<|system|>\nBe nice.<|endoftext|>\n<|user|>\nHé?<|endoftext|>\n<|assistant|>\n⟦Yés.<|endoftext|>⟧\n\
             <|user|>\nNo?<|endoftext|>\n<|assistant|>\n⟦🙂 No<|endoftext|>⟧\n",
        ),
        // Behind `</s>` SPM puts a space.
        (&SPM, builtin("llama2"), "<s> [INST] Be nice.\nHé? [/INST]⟦Yés.</s>⟧ [INST] No? [/INST]⟦🙂 No</s>⟧"),
        (
            &SPM,
            published("llama-2.jinja"),
            "<s> [INST] <<SYS>>\nBe nice.\n<</SYS>>\n\nHé? [/INST]⟦ Yés. </s>⟧<s> [INST] No? [/INST]⟦ 🙂 No </s>⟧",
        ),
        // Two markers that end a turn, but only one at the very end.
        (
            &SPM,
            published("phi-3.jinja"),
            "<s> <|system|>\nBe nice.<|end|>\n<|user|>\nHé?<|end|>\n<|assistant|>\n⟦Yés.<|end|>⟧\n<|user|>\nNo?<|end|>\n\
             <|assistant|>\n⟦🙂 No<|end|>\n</s>⟧",
        ),
        // The system message is before the last question only, so that no part of the text begins like the whole.
        (&SPM, published("mistral-v0.3.jinja"), "<s> [INST] Hé?[/INST]⟦ Yés.</s>⟧ [INST] No?[/INST]⟦ 🙂 No</s>⟧"),
    ];
    for (vocab, template, expected) in cases {
        assert_eq!(assistant(vocab, &template, &turns), expected);
    }
}

#[test]
fn templates_that_treat_the_last_message_in_a_special_way() {
    // The thoughts of earlier answers are dropped, the last one gets a place for them.
    let turns =
        messages(&[("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nOne"), ("user", "b"), ("assistant", "Two")]);
    assert_eq!(
        assistant(&QWEN2, &published("qwen3.jinja"), &turns),
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦One<|im_end|>⟧\n<|im_start|>user\nb<|im_end|>\n\
         <|im_start|>assistant\n⟦<think>\n\n</think>\n\nTwo<|im_end|>⟧\n"
    );
    // Another end for the last one, and none of them ends generation but the last.
    let harmony = "{%- for m in messages %}{{- '<|' ~ m.role ~ '|>' ~ m.content }}
        {{- '<|end|>' if m.role == 'assistant' and loop.last else '<|placeholder1|>' }}{%- endfor %}
        {%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}";
    let text = assistant(&super::vocab("phi-3"), harmony, &turns);
    assert!(text.contains("One<|placeholder1|>⟧<|user|>") && text.ends_with("⟦ Two<|end|>⟧"), "{text}");
    // No end: what begins the next question ends generation.
    let question =
        "{%- for m in messages %}{{- ('<|endoftext|>' if m.role == 'user' else '>') ~ m.content }}{%- endfor %}
        {%- if add_generation_prompt %}{{- '>' }}{%- endif %}";
    let plain_turns = messages(&[("user", "a"), ("assistant", "One"), ("user", "b"), ("assistant", "Two")]);
    assert_eq!(assistant(&GPT2, question, &plain_turns), "<|endoftext|>a>⟦One<|endoftext|>⟧b>⟦Two⟧");
    // EOS after everything, and nothing between the turns.
    let plain = "{%- for m in messages %}{{- m.role ~ ':' ~ m.content ~ '\\n' }}{%- endfor %}
        {%- if add_generation_prompt %}{{- 'assistant:' }}{%- else %}{{- eos_token }}{%- endif %}";
    assert_eq!(
        assistant(&GPT2, plain, &plain_turns),
        "user:a\nassistant:⟦One\n⟧user:b\nassistant:⟦Two\n<|endoftext|>⟧"
    );
}

#[test]
fn the_answer_begins_with_a_token_of_its_own() {
    // As one text, `: No` would be `:` and ` No`.
    let template = published("bitnet-2b-4t-old.jinja");
    let turns = messages(&[("user", "a"), ("assistant", "No."), ("user", "b"), ("assistant", "Yes")]);
    for vocab in [&LLAMA3, &SPM] as [&Vocab; 2] {
        let text = assistant(vocab, &template, &turns);
        let text = text.replace("<s> ", "").replace("<|begin_of_text|>", "");
        assert_eq!(text, "User: a<|eot_id|>Assistant: ⟦No.<|eot_id|>⟧User: b<|eot_id|>Assistant: ⟦Yes<|eot_id|>⟧");
    }
}

#[test]
fn contents_that_look_like_markers() {
    let fake = "<|im_end|>\n<|im_start|>assistant\nfake<|im_end|>\n";
    let turns = messages(&[("user", fake), ("assistant", fake), ("user", "assistant"), ("assistant", "assistant")]);
    let expected = format!(
        "<|im_start|>user\n{fake}<|im_end|>\n<|im_start|>assistant\n⟦{fake}<|im_end|>⟧\n<|im_start|>user\nassistant\
         <|im_end|>\n<|im_start|>assistant\n⟦assistant<|im_end|>⟧\n"
    );
    for vocab in [&QWEN2, &GPT2] as [&Vocab; 2] {
        assert_eq!(assistant(vocab, &builtin("chatml"), &turns), expected);
    }
}

#[test]
fn contents_of_every_kind() {
    let chatml = builtin("chatml");
    // Private characters, among them the one that contents are replaced by; no content; white space only; parts.
    let turns = json!({"messages": [
        {"role": "assistant", "content": "\u{E000}\u{E001}"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "\u{E000}"}]},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": " \n"},
    ]});
    assert_eq!(
        assistant(&GPT2, &chatml, &turns),
        "<|im_start|>assistant\n⟦\u{E000}\u{E001}<|im_end|>⟧\n<|im_start|>user\na\n\u{E000}<|im_end|>\n\
         <|im_start|>assistant\n⟦<|im_end|>⟧\n<|im_start|>assistant\n⟦ \n<|im_end|>⟧\n"
    );
    // Tools that are called are what the assistant says, with content or without.
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]);
    let turns = json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": null, "tool_calls": call},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "b"},
    ]});
    assert_eq!(
        assistant(&SPM, &published("mistral-v0.3.jinja"), &turns),
        "<s> [INST] a[/INST]⟦[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"x\": 1}}]</s>⟧ [TOOL_RESULTS] \
         {\"content\": 2}[/TOOL_RESULTS]⟦ b</s>⟧"
    );
    let text = assistant(&QWEN2, &published("qwen3.jinja"), &turns);
    assert!(
        text.contains("⟦<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call><|im_end|>⟧"),
        "{text}"
    );
}

/// Every template that is built in, with vocabularies that have its markers and that lack them: each answer counts, and
/// nothing of questions does.
#[test]
fn every_builtin_template() {
    let turns = messages(&[
        ("user", "qqq one é"),
        ("assistant", "Answer zzz 🙂 first."),
        ("user", "qqq two"),
        ("assistant", "Second answer zzz!"),
        ("user", "qqq three"),
        ("assistant", "Zürich zzz"),
    ]);
    for name in BUILTIN_NAMES {
        for vocab in [&SPM, &LLAMA3, &QWEN2, &GPT2] as [&Vocab; 4] {
            let text = assistant(vocab, &builtin(name), &turns);
            let parts: Vec<(&str, &str)> = text.split('⟦').skip(1).map(|part| part.split_once('⟧').unwrap()).collect();
            assert_eq!(parts.len(), 3, "{name}: {text}");
            for ((said, between), answer) in
                parts.iter().zip(["Answer zzz 🙂 first.", "Second answer zzz!", "Zürich zzz"])
            {
                assert!(said.contains(answer) && !said.contains("qqq"), "{name}: {text}");
                assert!(!between.contains("zzz"), "{name}: {text}");
            }
        }
    }
}

#[test]
fn without_the_mask_everything_counts() {
    let dataset = load("data.jsonl", messages(TURNS).to_string(), &QWEN2, Some(&builtin("chatml")), &options());
    let row = dataset.unwrap().train.window(0).unwrap();
    assert_eq!(row.n_labels(), row.len());
    // ChatML for models without a template, and a file instead of the model's.
    let chatml = load("data.jsonl", messages(TURNS).to_string(), &QWEN2, None, &options()).unwrap();
    assert_eq!(chatml.train.window(0).unwrap(), row);
    let (_dir, path) = super::file("chat.jinja", builtin("chatml"));
    let from_file = DatasetOptions { chat_template: Some(path), ..options() };
    let from_file = load("data.jsonl", messages(TURNS).to_string(), &QWEN2, Some("{{ 1 }}"), &from_file).unwrap();
    assert_eq!(from_file.train.window(0).unwrap(), row);
}

#[test]
fn templates_see_the_same_date_every_day() {
    let turns = messages(&[("user", "a"), ("assistant", "b")]);
    let template = "{{ strftime_now('%F') }}{% for m in messages %};{{ m.content }}{% endfor %}";
    assert_eq!(assistant(&GPT2, template, &turns), "2024-07-26;a⟦;b⟧");
}

#[test]
fn bos_comes_once() {
    let turns = messages(&[("user", "a"), ("assistant", "b")]);
    for template in [
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    ] {
        let text = assistant(&LLAMA3, template, &turns);
        assert_eq!(text, "<|begin_of_text|>a⟦b⟧");
    }
}

#[test]
fn templates_that_fail() {
    let good = messages(&[("user", "a"), ("assistant", "b")]).to_string();
    let refused = messages(&[("system", "s"), ("user", "a"), ("assistant", "b")]).to_string();
    let file = format!("{good}\n\n# comment\n{refused}\n{good}\n");
    let template = published("gemma-2.jinja");
    let masked = DatasetOptions { assistant_loss_only: true, ..options() };
    for options in [&masked, &options()] {
        let got = error(load("data.jsonl", &file, &GPT2, Some(&template), options));
        let want =
            "data.jsonl, line 4: chat template, line 1: the template refuses the messages: System role not supported";
        assert_eq!(got, want);
        let skip = DatasetOptions { skip_bad_lines: true, ..options.clone() };
        let dataset = load("data.jsonl", &file, &GPT2, Some(&template), &skip).unwrap();
        assert_eq!((dataset.source.n_samples, dataset.source.n_bad, dataset.source.bad_lines[0].line), (2, 1, 4));
    }
    let loop_ = "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}";
    assert!(
        error(load("data.jsonl", &good, &GPT2, Some(loop_), &masked)).starts_with("data.jsonl, line 1: chat template")
    );
    // Broken from the start: no matter to texts, an error for conversations, and for a file at once.
    let broken = Some("{% if %}");
    assert!(load("data.jsonl", r#"{"text": "a b c"}"#, &GPT2, broken, &options()).is_ok());
    assert!(
        error(load("data.jsonl", &good, &GPT2, broken, &masked))
            .starts_with("data.jsonl, line 1: chat template, line 1:")
    );
    let (_dir, path) = super::file("data.jinja", "{% if %}");
    let from_file = DatasetOptions { chat_template: Some(path), ..options() };
    let got = error(load("data.jsonl", r#"{"text": "a b c"}"#, &GPT2, None, &from_file));
    assert!(got.starts_with("data.jinja: chat template, line 1"), "{got}");
}

#[test]
fn answers_that_cannot_be_told_from_the_rest() {
    let masked = DatasetOptions { assistant_loss_only: true, ..options() };
    let turns = messages(&[("user", "a"), ("assistant", "b")]).to_string();
    let fails = |template: &str, turns: &str| error(load("data.jsonl", turns, &GPT2, Some(template), &masked));
    assert_eq!(
        fails("{% for m in messages %}{{ m.content ~ m.content }}{% endfor %}", &turns),
        "data.jsonl, line 1: the chat template prints the content of messages[1] 2 times, expected once"
    );
    assert_eq!(
        fails("Hello world{{ messages[0].content }}", &turns),
        "data.jsonl, line 1: the chat template prints the content of messages[1] 0 times, expected once"
    );
    let two = messages(&[("user", "a"), ("assistant", "b"), ("assistant", "c")]).to_string();
    assert_eq!(
        fails("{% for m in messages | reverse %}{{ m.content ~ ';' }}{% endfor %}", &two),
        "data.jsonl, line 1: the chat template prints messages[2] before an earlier message of the assistant"
    );
    let none = "data.jsonl, line 1: no token of an assistant to learn from (only the loss of the assistant's tokens was asked for)";
    assert_eq!(fails(&builtin("chatml"), &messages(&[("user", "a")]).to_string()), none);
    assert_eq!(fails(&builtin("chatml"), r#"{"text": "a b"}"#), none);
    // The first token is predicted by nothing.
    let first = messages(&[("assistant", "b"), ("user", " c")]).to_string();
    assert_eq!(fails("{% for m in messages %}{{ m.content }}{% endfor %}", &first), none);
    assert_eq!(fails(&builtin("chatml"), r#"{"prompt": "a b", "completion": ""}"#), none);
}
