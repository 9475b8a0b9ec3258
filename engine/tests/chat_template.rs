//! Chat templates against jinja2 (templates of published models) and llama.cpp (its templates by name), as recorded by
//! `fixtures/chat_template/generate.py`; and hostile templates.

use std::path::Path;
use std::time::{Duration, Instant};

use fabric_engine::chat_template::{BUILTIN_NAMES, ChatMessage, ChatTemplate, ChatTemplateError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A rendering recorded from the reference.
#[derive(Deserialize)]
struct Case {
    template: String,
    name: String,
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
    kwargs: Map<String, Value>,
    text: Option<String>,
    raised: Option<String>,
}

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_template")
}

fn cases(file: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(fixtures().join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn check(case: &Case, template: &ChatTemplate) -> Option<String> {
    let got = template.apply(&case.messages, case.add_generation_prompt, &case.kwargs);
    let ok = match (&got, &case.text, &case.raised) {
        (Ok(got), Some(want), None) => got == want,
        (Err(ChatTemplateError::Raised { message, .. }), None, Some(want)) => message == want,
        _ => false,
    };
    let want = case.text.as_ref().or(case.raised.as_ref());
    (!ok).then(|| {
        format!("{} {} {}:\n  got  {got:?}\n  want {want:?}", case.template, case.name, case.add_generation_prompt)
    })
}

#[test]
fn templates_of_published_models_render_as_jinja2_renders_them() {
    let cases = cases("jinja.json");
    assert!(cases.len() > 100, "{} cases", cases.len());
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let source = std::fs::read_to_string(fixtures().join(&case.template)).unwrap();
            let template = ChatTemplate::new(&source, "<BOS>", "<EOS>").unwrap();
            check(case, &template.at_time(1_721_984_703))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} differ:\n{}",
        failures.len(),
        cases.len(),
        failures[..failures.len().min(10)].join("\n")
    );
}

#[test]
fn named_templates_render_as_llama_cpp_renders_them() {
    let cases = cases("named.json");
    let mut failures = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for case in &cases {
        seen.insert(case.template.as_str());
        let template = ChatTemplate::by_name(&case.template, "<BOS>", "<EOS>").unwrap();
        failures.extend(check(case, &template));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), BUILTIN_NAMES);
    assert!(
        failures.is_empty(),
        "{} of {} differ:\n{}",
        failures.len(),
        cases.len(),
        failures[..failures.len().min(10)].join("\n")
    );
}

fn user(text: &str) -> Vec<ChatMessage> {
    vec![ChatMessage::new("user", text)]
}

fn render(source: &str) -> Result<String, ChatTemplateError> {
    ChatTemplate::new(source, "", "")?.apply(&user("hi"), true, &Map::new())
}

#[test]
fn chatml_is_the_default() {
    let template = ChatTemplate::default_for("", "").unwrap();
    assert_eq!(
        template.apply(&user("hi"), true, &Map::new()).unwrap(),
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn names_and_sources_are_told_apart() {
    let by = |text: &str| ChatTemplate::by_name_or_source(text, "", "");
    assert_eq!(by("llama3").unwrap(), ChatTemplate::by_name("llama3", "", "").unwrap());
    assert_eq!(by("{{ 1 }}").unwrap().source(), "{{ 1 }}");
    let err = by("nope").unwrap_err().to_string();
    assert!(err.contains("'nope'") && err.contains("chatml"), "{err}");
}

#[test]
fn errors_name_the_line() {
    let err = ChatTemplate::new("a\n{% if x %}\n{{ 1 + }}", "", "").unwrap_err();
    assert!(matches!(err, ChatTemplateError::Syntax { line: 3, .. }), "{err}");
    let err = render("a\n\n{{ missing.field.x }}").unwrap_err();
    assert!(matches!(err, ChatTemplateError::Render { line: 3, .. }), "{err}");
    assert!(err.to_string().contains("line 3"), "{err}");
    let err = render("\n{{ raise_exception('no ' + 'way') }}").unwrap_err();
    let want = ChatTemplateError::Raised { line: 2, message: "no way".to_owned() };
    assert_eq!(err, want);
    let err = render("{{ 'x' | no_such_filter }}").unwrap_err();
    assert!(err.to_string().contains("no_such_filter"), "{err}");
}

#[test]
fn kwargs_are_variables_and_keep_their_order() {
    let template = ChatTemplate::new("{{ tools | tojson }}{{ bos_token }}", "<s>", "").unwrap();
    let kwargs = json!({"tools": [{"z": 1, "a": {"y": 2.5, "b": null}}], "bos_token": "B"});
    let text = template.apply(&[], false, kwargs.as_object().unwrap()).unwrap();
    assert_eq!(text, r#"[{"z": 1, "a": {"y": 2.5, "b": null}}]B"#);
}

/// Renders in a small stack, as a worker thread has.
fn render_hostile(source: &str) -> Result<usize, String> {
    let source = source.to_owned();
    let start = Instant::now();
    let result = std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || render(&source).map(|text| text.len()).map_err(|e| e.to_string()))
        .unwrap()
        .join()
        .unwrap();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    result
}

#[test]
fn hostile_templates_get_an_error() {
    let hundred_times = |body: &str| format!("{{% for i in range(100) %}}{body}{{% endfor %}}");
    let doubling = |op: &str| {
        let body = format!("{{% set ns.s = {op} %}}");
        let start = "{% set ns = namespace(s='0123456789abcdef') %}";
        format!("{start}{}{{{{ ns.s | length }}}}", hundred_times(&body))
    };
    let nesting = |op: &str, last: &str| {
        let body = format!("{{% set ns.s = {op} %}}");
        let start = "{% set ns = namespace(s=1) %}";
        format!("{start}{}{last}", hundred_times(&body))
    };
    let hostile = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaa') }}".to_owned(),
        doubling("ns.s ~ ns.s"),
        doubling("ns.s + ns.s"),
        doubling("ns.s * 99"),
        doubling("ns.s | replace('0', ns.s) | replace('a', ns.s)"),
        doubling("ns.s.replace('', ns.s)"),
        doubling("[ns.s, ns.s] | join(ns.s)"),
        doubling("ns.s.join([ns.s, ns.s])"),
        doubling("ns.s.join(ns.s)"),
        doubling("[ns.s, ns.s] | string"),
        doubling("[ns.s, ns.s] | tojson"),
        doubling("'%s%s' | format(ns.s, ns.s)"),
        doubling("'{}{}'.format(ns.s, ns.s)"),
        doubling("ns.s | indent(9999999)"),
        "{{ '%999999999999d' | format(1) }}".to_owned(),
        "{{ '{:>99999999999}'.format(1) }}".to_owned(),
        "{{ 'a' * 99999999 * 99999999 }}".to_owned(),
        "{{ [1] * 99999999 }}".to_owned(),
        "{% set x = 'a' * 9999 * 9999 %}".repeat(1000),
        "{% set x = 'a' * 10 ** 7 %}".repeat(1000),
        "{% set x = 'a' * 1e7 %}".repeat(1000),
        "{% set n = 99999999 %}{{ ('a' * n) | length }}".to_owned(),
        "{% for i in range(9999) %}{% set x = range(99999) | sum %}{% endfor %}".to_owned(),
        "{% for i in range(99999) %}{% set x = range(99999) | list | sort %}{% endfor %}".to_owned(),
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}".to_owned(),
        nesting("[ns.s, ns.s]", "{{ ns.s }}"),
        nesting("[ns.s, ns.s]", "{{ ns.s | string | length }}"),
        nesting("(ns.s, ns.s)", "{{ ns.s == ns.s }}"),
        nesting("{'a': ns.s, 'b': ns.s}", "{{ ns.s | tojson }}"),
        nesting("dict(a=ns.s, b=ns.s)", "{{ ns.s | tojson }}"),
        nesting("namespace(a=ns.s, b=ns.s)", "{{ ns.s }}"),
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".to_owned(),
        "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = b %}{% set b.x = a %}{{ a == b }}".to_owned(),
        "{% set ns = namespace() %}{% for i in range(99999) %}{% set m = namespace() %}{% set m.p = ns.p %}{% set ns.p = m %}{% endfor %}".to_owned(),
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = ns.l | batch(1) | list %}{% endfor %}".to_owned(),
        "{% set ns = namespace(l=1) %}{% for i in range(99999) %}{% set ns.l = dict(a=ns.l) %}{% endfor %}".to_owned(),
        "{% include 'chat_template' %}".to_owned(),
        "{{ self.x() }}{% block x %}{{ self.x() }}{% endblock %}".to_owned(),
        format!("{}1{}", "{{ (".to_owned() + &"(".repeat(100_000), ")".repeat(100_001) + " }}"),
        format!("{}{}", "{% if 1 %}".repeat(40_000), "{% endif %}".repeat(40_000)),
        format!("{{% if 0 %}}{}{{% endif %}}{{{{ x.y.z }}}}", "{% elif 0 %}".repeat(80_000)),
        format!("{{{{ {}x.y.z }}}}", "-".repeat(900)),
        format!("{{{{ 1{} + none }}}}", " + 1".repeat(400)),
        format!("{{{{ 1{} }}}}", " ~ 'x'".repeat(400)) + "{{ x.y.z }}",
        format!("{{{{ x{} }}}}", ".x".repeat(400)),
        format!("{{{{ {}1 }}}}", "-".repeat(500_000)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(200_000)),
        format!("{{{{ x{} }}}}", ".x".repeat(300_000)),
        "x".repeat(2 << 20),
    ];
    for source in &hostile {
        let result = render_hostile(source);
        let shown: String = source.chars().take(120).collect();
        assert!(result.is_err(), "{shown}: {result:?}");
    }
}

/// What Python gives; minijinja's own slices panic where there is nothing to go back over.
#[test]
fn slices_go_backwards_as_in_python() {
    let source = "{% set l = [0, 1, 2, 3] %}{{ [][::-1] | list }} {{ ''[::-1] }}| {{ l[::-1] }} {{ l[::-2] }} {{ l[0:3:-1] }} \
                  {{ l[3:0:-1] }} {{ l[-2::-1] }} {{ l[:1:-1] }} {{ l[9:-9:-3] }} {{ 'héllo'[::-1] }} {{ 'abc'[-9::-1] }}| \
                  {{ (1, 2)[::-1] }} {{ l[::-9223372036854775807] }}";
    let expected = "[] | [3, 2, 1, 0] [3, 1] [] [3, 2, 1] [2, 1, 0] [3, 2] [3, 0] olléh | (2, 1) [3]";
    assert_eq!(render(source).unwrap(), expected);
}

#[test]
fn long_conversations_stay_within_the_limits() {
    let messages: Vec<ChatMessage> =
        (0..2000).map(|i| ChatMessage::new(["user", "assistant"][i % 2], "word ".repeat(200))).collect();
    for file in ["llama-3.1.jinja", "qwen3.jinja", "mistral-v0.3.jinja"] {
        let source = std::fs::read_to_string(fixtures().join(file)).unwrap();
        let template = ChatTemplate::new(&source, "<s>", "</s>").unwrap();
        let start = Instant::now();
        let text = template.apply(&messages, true, &Map::new());
        let text = text.unwrap_or_else(|err| panic!("{file}: {err}"));
        assert!(text.len() > 2000 * 999, "{file}: {}", text.len());
        assert!(start.elapsed() < Duration::from_secs(20), "{file}: {:?}", start.elapsed());
    }
}
