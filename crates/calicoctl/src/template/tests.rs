#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

fn filled(template: &str, data: &Value) -> String {
    let config = |name: &str| (name == "asnumber").then(|| "64512".to_owned());
    Template::parse(template).and_then(|template| template.render(data, &config)).unwrap_or_else(|e| format!("! {e}"))
}

fn pools() -> Value {
    let pool = |name: &str, cidr: &str, labels: Value| {
        json!({"kind": "IPPool", "metadata": {"name": name, "labels": labels},
               "spec": {"cidr": cidr, "natOutgoing": true, "allowedUses": ["Workload", "Tunnel"], "blockSize": 26}})
    };
    json!([pool("a", "10.0.0.0/16", json!({"x": "1", "y": "2"})), pool("b", "10.1.0.0/16", json!({}))])
}

#[test]
fn templates_are_filled_in_as_go_does() {
    for (template, expected) in [
        ("{{range .}}{{.metadata.name}} {{end}}", "a b "),
        ("{{range .}}{{.ObjectMeta.Name}}={{.Spec.CIDR}};{{end}}", "a=10.0.0.0/16;b=10.1.0.0/16;"),
        ("{{range .}}{{.Name}}{{end}}", "ab"),
        ("{{range $i, $p := .}}{{$i}}:{{$p.metadata.name}},{{end}}", "0:a,1:b,"),
        ("{{range $p := .}}{{$p.kind}}{{end}}", "IPPoolIPPool"),
        ("{{range .}}{{range $k, $v := .metadata.labels}}{{$k}}={{$v}} {{else}}none{{end}}|{{end}}", "x=1 y=2 |none|"),
        ("{{len .}} {{len (index . 0).metadata.name}}", "2 1"),
        ("{{(index . 1).spec.cidr}}", "10.1.0.0/16"),
        ("{{index . 0 \"metadata\" \"labels\" \"y\"}}", "2"),
        ("{{range .}}{{if eq .metadata.name \"a\"}}A{{else if ne .kind \"IPPool\"}}?{{else}}B{{end}}{{end}}", "AB"),
        ("{{range .}}{{with .metadata.labels.x}}{{.}}{{else}}-{{end}}{{end}}", "1-"),
        ("{{range .}}{{join .spec.allowedUses \",\"}} {{end}}", "Workload,Tunnel Workload,Tunnel "),
        ("{{joinAndTruncate (index . 0).spec.allowedUses \",\" 4}}", "Work..."),
        ("{{config \"asnumber\"}}", "64512"),
        (
            "{{range .}}{{printf \"%-4s|%3d|%q\" .Name .Spec.BlockSize .kind}} {{end}}",
            "a   | 26|\"IPPool\" b   | 26|\"IPPool\" ",
        ),
        ("{{$n := 0}}{{range .}}{{$n = len .metadata.labels}}{{end}}{{$n}}", "0"),
        ("a {{- /* not printed */ -}} b", "ab"),
        ("{{range . -}}\n  {{.Name}}\n{{- end}}.", "ab."),
        ("{{\"a}}b\"}}{{`c`}}", "a}}bc"),
        ("{{and 1 0}}{{or 0 \"x\"}}{{not true}}", "0xfalse"),
        ("{{if and (gt 2 1) (le \"a\" \"b\") (ge 1 1) (lt 1.5 2)}}yes{{end}}", "yes"),
        ("{{print 1 2 \"a\" true}}|{{println \"x\" 3}}", "1 2atrue|x 3\n"),
        (
            "{{range .}}{{.Name}}{{break}}{{end}}{{range .}}{{if eq .Name \"a\"}}{{continue}}{{end}}{{.Name}}{{end}}",
            "ab",
        ),
        ("{{(index . 0).spec.allowedUses}}{{(index . 0).metadata.labels}}", "[Workload Tunnel]map[x:1 y:2]"),
        ("{{(index . 0).spec.nothing.below}}|{{nil}}", "|"),
        ("{{(index . 0).kind | printf \"%s-%s\" \"x\"}}", "x-IPPool"),
        ("{{-3}}", "-3"),
    ] {
        assert_eq!(filled(template, &pools()), expected, "{template}");
    }
}

#[test]
fn what_is_not_understood_is_refused_with_its_line() {
    for (template, words) in [
        ("{{range .}}", "line 1: what begins here has no end"),
        ("a\n{{end}}", "line 2: there is nothing that could end here"),
        ("{{if}}x{{end}}", "a value is missing"),
        ("{{define \"x\"}}{{end}}", "define is not understood"),
        ("\n\n{{template \"x\"}}", "line 3: template is not understood"),
        ("{{.a", "has no end"),
        ("{{\"a}}", "has no end"),
        ("{{/* a }}", "has no end"),
        ("{{break}}", "stands in no range"),
        ("{{. 1}}", "as if it were a function"),
        ("{{1 | 2}}", "stands a function"),
        ("{{(1}}", "a parenthesis has no end"),
        ("{{1)}}", ") stands where nothing can"),
        ("{{.a := 1}}", ":= stands where a value is wanted"),
        ("{{?}}", "is not understood"),
        ("{{12x}}", "no number"),
    ] {
        let error = Template::parse(template).unwrap_err().to_string();
        assert!(error.contains(words), "{template}: {error}");
    }
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(Template::parse(&deep).unwrap_err().to_string().contains("deeper"));
    let deep = "{{if 1}}".repeat(100_000);
    assert!(Template::parse(&deep).unwrap_err().to_string().contains("deeper"));
}

#[test]
fn what_the_data_do_not_allow_is_said() {
    for (template, words) in [
        ("{{.metadata.name}}", "a list has no field metadata: go over it with range"),
        ("{{range .}}{{.kind.x}}{{end}}", "has no field x"),
        ("{{index . 7}}", "index 7 of a list of 2"),
        ("{{$x}}", "no variable $x"),
        ("{{range 3}}{{end}}", "range goes over"),
        ("{{lt 1 \"a\"}}", "lt wants"),
        ("{{len 1}}", "len wants"),
        ("{{config \"colour\"}}", "config wants"),
        ("{{printf \"%s\"}}", "no value"),
        ("{{printf \"%x\" 1}}", "%x is not understood"),
    ] {
        let answer = filled(template, &pools());
        assert!(answer.starts_with("! ") && answer.contains(words), "{template}: {answer}");
    }
}
