//! Random clusters and random packets, of few names, labels, addresses and ports, so that everything meets everything.
//!
//! Each strategy makes the parts of a document and puts those together that fit one another, so that most documents
//! are valid and smaller parts make smaller documents. Some are not valid on purpose: they reach felix as what somebody
//! has stored without asking.

use std::net::IpAddr;

use calico_packets::{Content, Manner, Topology, wire::SYN};
use proptest::{collection::vec, option::weighted, prelude::*, sample::select};
use serde_json::{Map, Value, json};

/// What differs from the topology's own resources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Documents {
    pub(crate) resources: Vec<Value>,
    pub(crate) endpoints: Vec<Value>,
    pub(crate) config: Map<String, Value>,
}

/// A packet before it is known what its sender's kernel adds to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shot {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// In place of the sender's own.
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: IpAddr,
    pub(crate) source_port: Option<u16>,
    pub(crate) content: Content,
    pub(crate) manner: Manner,
}

type Texts = &'static [&'static str];

fn text(choices: Texts) -> impl Strategy<Value = Value> + Clone {
    select(choices).prop_map(Value::from)
}

fn labels() -> impl Strategy<Value = Value> {
    vec((select(&["a", "b", "c"][..]), select(&["", "1", "2"][..])), 0..3)
        .prop_map(|labels| labels.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect())
}

const SELECTORS: Texts = &[
    "has(a)",
    "a == '1'",
    "!has(b)",
    "all()",
    "a in {'1', '2'} || b == ''",
    "has(a) && !has(c)",
    "c != '2'",
    "projectcalico.org/namespace == 'blue'",
    "projectcalico.org/serviceaccount == 'robot'",
    "has(set)",
    "has(hep)",
];

const V4_NETS: Texts = &[
    "10.65.0.10/32",
    "10.65.0.10/31",
    "10.65.0.12/30",
    "10.65.0.0/16",
    "10.99.0.2/32",
    "10.99.0.0/16",
    "172.18.0.0/24",
];
const V6_NETS: Texts = &["fd65::10/128", "fd65::10/127", "fd65::14/126", "fd65::/64", "fd99::2/128", "fd99::/16"];
const ODD_NETS: Texts = &["0.0.0.0/0", "10.65.0.10/8", "nonsense", "::/0"];
const BROKEN_SELECTORS: Texts = &["has(", "a == b", " ", "a) || (b"];

/// Conditions on one end, as far as they do not depend on the rest of the rule.
#[derive(Clone, Debug)]
struct End {
    nets: Vec<(usize, usize)>,
    not_nets: Vec<(usize, usize)>,
    selectors: Map<String, Value>,
    ports: Vec<Value>,
    not_ports: Vec<Value>,
    account: bool,
}

fn port() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => select(vec![json!(80), json!(443), json!(53), json!(5000), json!(8080), json!("53:80"), json!("443:8080")]),
        4 => select(vec![json!("http"), json!("dns"), json!("ghost")]),
        1 => Just(json!("45000:60000")),
    ]
}

fn end() -> impl Strategy<Value = End> {
    let nets = |chance: f64| {
        let some = weighted(chance, vec((0..V4_NETS.len(), 0..V6_NETS.len()), 1..3));
        some.prop_map(Option::unwrap_or_default)
    };
    let ports = |chance: f64| weighted(chance, vec(port(), 1..4)).prop_map(Option::unwrap_or_default);
    let selectors = (
        weighted(0.25, text(SELECTORS)),
        weighted(0.1, text(SELECTORS)),
        weighted(0.06, text(&["all()", "global()", "has(zone)", "projectcalico.org/name == 'blue'"])),
    );
    (nets(0.15), nets(0.12), selectors, ports(0.5), ports(0.3), prop::bool::weighted(0.03)).prop_map(
        |(nets, not_nets, (selector, not_selector, namespaces), ports, not_ports, account)| {
            let named = [("selector", selector), ("notSelector", not_selector), ("namespaceSelector", namespaces)];
            let selectors = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
            End { nets, not_nets, selectors, ports, not_ports, account }
        },
    )
}

impl End {
    fn document(self, family: u8, has_ports: bool) -> Value {
        let mut document = Value::Object(self.selectors);
        let net = |(v4, v6): (usize, usize)| if family == 4 { V4_NETS[v4] } else { V6_NETS[v6] };
        let lists = [
            ("nets", self.nets.into_iter().map(net).map(Value::from).collect::<Vec<_>>()),
            ("notNets", self.not_nets.into_iter().map(net).map(Value::from).collect()),
            ("ports", if has_ports { self.ports } else { Vec::new() }),
            ("notPorts", if has_ports { self.not_ports } else { Vec::new() }),
        ];
        for (name, list) in lists {
            if !list.is_empty() {
                document[name] = list.into();
            }
        }
        if self.account {
            document["serviceAccounts"] = json!({"names": ["robot"]});
        }
        document
    }
}

fn icmp() -> impl Strategy<Value = Value> {
    (select(vec![8, 13, 128, 3]), weighted(0.3, select(vec![0, 1, 4]))).prop_map(|(icmp_type, code)| match code {
        Some(code) => json!({"type": icmp_type, "code": code}),
        None => json!({"type": icmp_type}),
    })
}

/// Something that makes a rule, and its policy, one that cannot be followed.
fn flaw() -> impl Strategy<Value = Option<(&'static str, Value)>> {
    let flaws = prop_oneof![
        text(ODD_NETS).prop_map(|net| ("/source/notNets", json!([net]))),
        text(BROKEN_SELECTORS).prop_map(|selector| ("/source/selector", selector)),
        text(BROKEN_SELECTORS).prop_map(|selector| ("/destination/namespaceSelector", selector)),
        Just(("/destination/services", json!({"name": "s", "namespace": "default"}))),
        Just(("/action", json!("Perhaps"))),
        Just(("/destination/ports", json!(["9:1"]))),
    ];
    weighted(0.006, flaws)
}

fn rule() -> impl Strategy<Value = Value> {
    let action = prop_oneof![5 => Just("Allow"), 3 => Just("Deny"), 2 => Just("Pass"), 1 => Just("Log")];
    let protocol = weighted(
        0.7,
        prop_oneof![
            3 => Just(json!("TCP")),
            3 => Just(json!("UDP")),
            3 => select(vec![json!("ICMP"), json!("ICMPv6")]),
            1 => select(vec![json!("SCTP"), json!(253), json!(6), json!(1), json!(58)]),
        ],
    );
    let not_protocol = weighted(0.05, select(vec![json!("TCP"), json!("UDP"), json!("ICMP"), json!(253)]));
    let kinds = (weighted(0.4, icmp()), weighted(0.6, icmp()));
    let version = weighted(0.08, select(vec![4, 6]));
    (action, select(vec![4_u8, 6]), version, protocol, not_protocol, kinds, end(), end(), flaw()).prop_map(
        |(action, family, version, protocol, not_protocol, (icmp, not_icmp), source, destination, flaw)| {
            let is = |names: &[Value]| protocol.as_ref().is_some_and(|protocol| names.contains(protocol));
            let has_ports = is(&[json!("TCP"), json!("UDP"), json!("SCTP"), json!(6)]);
            let has_types = is(&[json!("ICMP"), json!("ICMPv6"), json!(1), json!(58)]);
            let mut rule = json!({"action": action});
            let nets = [&source, &destination].iter().any(|end| !end.nets.is_empty() || !end.not_nets.is_empty());
            if let Some(version) = version.filter(|version| !nets || *version == family) {
                rule["ipVersion"] = version.into();
            }
            rule["source"] = source.document(family, has_ports);
            rule["destination"] = destination.document(family, has_ports);
            rule["protocol"] = protocol.unwrap_or_default();
            rule["notProtocol"] = not_protocol.unwrap_or_default();
            rule["icmp"] = icmp.filter(|_| has_types).unwrap_or_default();
            rule["notICMP"] = not_icmp.filter(|_| has_types && rule["icmp"].is_null()).unwrap_or_default();
            if let Some((path, value)) = flaw {
                let (parent, member) = path.rsplit_once('/').expect("paths have a slash");
                if let Some(Value::Object(parent)) = rule.pointer_mut(parent) {
                    parent.insert(member.to_owned(), value);
                }
            }
            without_nulls(rule)
        },
    )
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null() && *value != json!({}));
    }
    value
}

/// Which packets a policy is for, beside its direction.
#[derive(Clone, Copy, Debug)]
enum Reach {
    Normal,
    Forward,
    PreDnat,
    Untracked,
}

fn document(kind: &str, namespace: Option<&str>, name: &str, labels: Value, spec: Value) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    if labels != json!({}) {
        metadata["labels"] = labels;
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": without_nulls(spec)})
}

fn policy() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        6 => Just(("GlobalNetworkPolicy", None)),
        2 => Just(("NetworkPolicy", Some("default"))),
        2 => Just(("NetworkPolicy", Some("blue"))),
        1 => Just(("StagedGlobalNetworkPolicy", None)),
        1 => Just(("StagedNetworkPolicy", Some("blue"))),
    ];
    let reach = prop_oneof![
        10 => Just(Reach::Normal), 3 => Just(Reach::Forward), 1 => Just(Reach::PreDnat), 1 => Just(Reach::Untracked)
    ];
    let order = select(vec![json!(null), json!(1), json!(2), json!(1.5), json!(10)]);
    let types = select(vec![json!(null), json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    let selector = prop_oneof![
        20 => text(SELECTORS), 10 => Just(json!("all()")), 4 => Just(json!("has(hep)")), 1 => weighted(0.3, text(BROKEN_SELECTORS)).prop_map(|s| s.unwrap_or_default())
    ];
    let narrow =
        (weighted(0.04, text(&["all()", "global()", "has(zone)"])), weighted(0.03, text(&["all()", "has(robotic)"])));
    let rules = || vec(rule(), 0..6);
    let name = select(vec!["p1", "p2", "p3", "p4", "p5"]);
    let tier = prop_oneof![3 => Just("default"), 1 => Just("t1"), 1 => Just("t2")];
    (kind, (name, tier, order, types), reach, (selector, narrow), (rules(), rules())).prop_map(
        |((kind, namespace), (name, tier, order, types), reach, (selector, narrow), (ingress, egress))| {
            let global = namespace.is_none();
            let mut spec = json!({
                "tier": tier, "order": order, "types": types, "selector": selector, "ingress": ingress,
                "egress": egress, "serviceAccountSelector": narrow.1,
            });
            if global {
                spec["namespaceSelector"] = narrow.0.into();
            }
            match reach {
                Reach::Normal => {}
                _ if !global => {}
                Reach::Forward => spec["applyOnForward"] = true.into(),
                Reach::PreDnat => {
                    spec["applyOnForward"] = true.into();
                    spec["preDNAT"] = true.into();
                    spec["types"] = json!(["Ingress"]);
                    spec["egress"] = json!(null);
                }
                Reach::Untracked => {
                    spec["applyOnForward"] = true.into();
                    spec["doNotTrack"] = true.into();
                }
            }
            let name = if tier == "default" { name.to_owned() } else { format!("{tier}.{name}") };
            document(kind, namespace, &name, json!({}), spec)
        },
    )
}

fn tier() -> impl Strategy<Value = Value> {
    let order = select(vec![json!(null), json!(1), json!(5), json!(2_000_000)]);
    (select(vec!["t1", "t2"]), order, select(vec!["Deny", "Pass"])).prop_map(|(name, order, action)| {
        document("Tier", None, name, json!({}), json!({"order": order, "defaultAction": action}))
    })
}

fn network_set() -> impl Strategy<Value = Value> {
    let nets = vec(prop_oneof![text(V4_NETS), text(V6_NETS)], 0..4);
    let place = select(vec![None, None, Some("default"), Some("blue")]);
    (place, select(vec!["s1", "s2"]), labels(), nets).prop_map(|(namespace, name, mut labels, nets)| {
        labels["set"] = "".into();
        let kind = if namespace.is_some() { "NetworkSet" } else { "GlobalNetworkSet" };
        document(kind, namespace, name, labels, json!({"nets": nets}))
    })
}

fn host_endpoint() -> impl Strategy<Value = Value> {
    let place = select(vec![
        ("h1", json!({"interfaceName": "eth1"})),
        ("h2", json!({"interfaceName": "eth2"})),
        ("any", json!({"interfaceName": "*"})),
        ("h3", json!({"expectedIPs": ["10.99.0.1"]})),
        ("h4", json!({"expectedIPs": ["fd99:1::1", "10.99.9.9"]})),
    ]);
    (place, labels(), profiles()).prop_map(|((name, mut spec), mut labels, profiles)| {
        labels["hep"] = "".into();
        spec["node"] = "host1".into();
        spec["profiles"] = profiles;
        document("HostEndpoint", None, name, labels, spec)
    })
}

fn profile() -> impl Strategy<Value = Value> {
    let open = || Just(vec![json!({"action": "Allow"})]);
    let rules = || prop_oneof![2 => open(), 2 => vec(rule(), 0..3)];
    let inherited = prop_oneof![
        2 => labels(),
        1 => Just(json!({"pcns.zone": "", "pcns.projectcalico.org/name": "blue"})),
        1 => Just(json!({"pcsa.robotic": ""})),
    ];
    (select(vec!["pa", "pb"]), rules(), rules(), inherited).prop_map(|(name, ingress, egress, labels)| {
        document(
            "Profile",
            None,
            name,
            json!({}),
            json!({"ingress": ingress, "egress": egress, "labelsToApply": labels}),
        )
    })
}

fn profiles() -> impl Strategy<Value = Value> {
    let name = prop_oneof![12 => Just("open"), 4 => Just("pa"), 4 => Just("pb"), 1 => Just("ghost")];
    vec(name, 0..3).prop_map(|names| {
        let mut names: Vec<&str> = names;
        names.dedup();
        json!(names)
    })
}

fn pool() -> impl Strategy<Value = Value> {
    let range = select(vec![("pool4", "10.65.0.0/16"), ("pool6", "fd65::/64"), ("far4", "10.99.1.0/24")]);
    (range, any::<bool>()).prop_map(|((name, cidr), masquerade)| {
        document("IPPool", None, name, json!({}), json!({"cidr": cidr, "natOutgoing": masquerade}))
    })
}

fn endpoint() -> impl Strategy<Value = Value> {
    let name = select(vec!["w0", "w1", "w2", "w3", "w4", "w5"]);
    let fate = prop_oneof![30 => Just(""), 1 => Just("absent"), 2 => Just("floating"), 1 => Just("account")];
    let published = prop_oneof![2 => Just(Vec::new()), 1 => vec(published(), 1..4)];
    (name, labels(), profiles(), fate, published).prop_map(|(name, labels, profiles, fate, published)| {
        let mut endpoint = json!({"name": name, "labels": labels, "profiles": profiles, "published": published});
        match fate {
            "absent" => endpoint["absent"] = true.into(),
            "account" => endpoint["serviceAccountName"] = "robot".into(),
            "floating" if name == "w0" => {
                endpoint["ipNATs"] = json!([
                    {"internalIP": "10.65.0.10", "externalIP": FLOATING[0]},
                    {"internalIP": "fd65::10", "externalIP": FLOATING[1]},
                ]);
            }
            _ => {}
        }
        endpoint
    })
}

/// A port of the host that leads to one where everybody listens.
fn published() -> impl Strategy<Value = Value> {
    let port = |protocol: &'static str, ports: Vec<u16>, host_ports: Vec<u16>| {
        (select(ports), select(host_ports)).prop_map(move |(port, host_port)| (protocol, port, host_port))
    };
    let port = prop_oneof![
        3 => port("TCP", vec![80, 443, 8080], vec![80, 443, 8080, 22, 179]),
        3 => port("UDP", vec![53, 5000], vec![53, 5000, 8080, 68, 4789]),
        1 => port("SCTP", vec![80, 5000], vec![80, 5000]),
    ];
    let address = select(vec!["", "", "", "0.0.0.0", "::", "10.99.1.1", "10.99.0.1", "fd99::1", "127.0.0.1"]);
    (port, address).prop_map(|((protocol, port, host_port), address)| {
        json!({"protocol": protocol, "port": port, "hostPort": host_port, "hostIP": address})
    })
}

/// Addresses that lead to w0 if it has them.
const FLOATING: [&str; 2] = ["10.65.7.7", "fd65::77"];

fn config() -> impl Strategy<Value = Map<String, Value>> {
    let fields = (
        select(vec!["Drop", "Accept", "Return"]),
        weighted(0.2, Just("Reject")),
        weighted(0.1, Just(true)),
        weighted(0.1, select(vec![json!([]), json!([{"protocol": "TCP", "port": 443}])])),
        weighted(0.1, Just("Disabled")),
    );
    fields.prop_map(|(to_host, deny, invalid, failsafe, floating)| {
        let mut config = Map::from_iter([
            ("defaultEndpointToHostAction".to_owned(), Value::from(to_host)),
            ("floatingIPs".to_owned(), floating.unwrap_or("Enabled").into()),
        ]);
        if let Some(deny) = deny {
            config.insert("nftablesFilterDenyAction".to_owned(), deny.into());
        }
        if let Some(invalid) = invalid {
            config.insert("disableConntrackInvalidCheck".to_owned(), invalid.into());
        }
        if let Some(failsafe) = failsafe {
            config.insert("failsafeInboundHostPorts".to_owned(), failsafe.clone());
            config.insert("failsafeOutboundHostPorts".to_owned(), failsafe);
        }
        config
    })
}

/// Random clusters.
pub(crate) fn documents() -> impl Strategy<Value = Documents> {
    let resources = prop_oneof![
        10 => policy(), 2 => tier(), 2 => network_set(), 2 => profile(), 1 => pool()
    ];
    let hosts = prop_oneof![2 => vec(host_endpoint(), 0..1), 1 => vec(host_endpoint(), 1..4)];
    (vec(resources, 0..10), hosts, vec(endpoint(), 0..7), config()).prop_map(
        |(mut resources, hosts, endpoints, config)| {
            resources.extend(hosts);
            Documents { resources, endpoints, config }
        },
    )
}

fn content() -> impl Strategy<Value = (Content, Manner)> {
    let tcp = select(vec![22, 53, 80, 443, 5432, 8080, 179]).prop_map(|port| Content::Tcp { port, flags: SYN });
    let udp = select(vec![53, 68, 123, 5000, 8080]).prop_map(|port| Content::Udp { port });
    let hand_made = prop_oneof![
        3 => select(vec![80, 5000, 8080]).prop_map(|port| Content::Udp { port }),
        2 => select(vec![80, 5000]).prop_map(|port| Content::Sctp { port }),
        2 => Just(Content::Other(253)),
        2 => (select(vec![80, 443]), select(vec![SYN, 16, 3, 4])).prop_map(|(port, flags)| Content::Tcp { port, flags }),
        1 => select(vec![(15, 0), (42, 0), (3, 1), (3, 4), (139, 0), (1, 4), (8, 1), (128, 1)])
            .prop_map(|(icmp_type, code)| Content::Icmp { icmp_type, code }),
        1 => Just(Content::Udp { port: 4789 }),
    ];
    prop_oneof![
        5 => tcp.prop_map(|content| (content, Manner::Converse)),
        5 => udp.prop_map(|content| (content, Manner::Converse)),
        5 => select(vec![8, 8, 13]).prop_map(|icmp_type| (Content::Icmp { icmp_type, code: 0 }, Manner::Converse)),
        3 => hand_made.prop_map(|content| (content, Manner::OneWay)),
    ]
}

/// What is special about a packet's addresses.
#[derive(Clone, Copy, Debug)]
enum Twist {
    None,
    /// The source is another party's.
    Forged(usize),
    /// To a floating address.
    Floating,
    /// To a port of the host that its owner translates.
    Translated(u16),
    /// To the host, also from the host itself: to a port that may be published.
    Published,
}

/// Random packets between the parties of a topology.
pub(crate) fn shot(topology: &Topology) -> impl Strategy<Value = Shot> + use<> {
    let topology = topology.clone();
    let parties = topology.parties.len();
    let twist = prop_oneof![
        30 => Just(Twist::None),
        2 => (0..parties).prop_map(Twist::Forged),
        2 => Just(Twist::Floating),
        2 => select(vec![30080, 30081]).prop_map(Twist::Translated),
        4 => Just(Twist::Published),
    ];
    // None at which a server would answer to an answer, for ever.
    let port = weighted(0.05, select(vec![443_u16, 5002, 50]));
    (0..parties, 0..parties - 1, select(vec![4_u8, 6]), content(), twist, port).prop_map(
        move |(from, to, family, (content, manner), twist, source_port)| {
            // Nobody but the host talks to himself, and that the host does only to one address.
            let to = if to >= from { to + 1 } else { to };
            let content = match content {
                Content::Icmp { icmp_type: 8 | 13, code: 0 } if family == 6 => {
                    Content::Icmp { icmp_type: 128, code: 0 }
                }
                other => other,
            };
            let address = |party: usize| topology.parties[party].address(family).expect("all have both families");
            let own = Shot {
                from,
                to,
                source: None,
                destination: address(to),
                source_port: source_port.filter(|_| manner == Manner::OneWay),
                content,
                manner,
            };
            match twist {
                Twist::None => own,
                // A kernel takes its own address as a source from elsewhere for an error before any rule sees it.
                Twist::Forged(other)
                    if other != from && other != to && other != parties - 1 && own.manner == Manner::OneWay =>
                {
                    Shot { source: Some(address(other)), ..own }
                }
                Twist::Floating if from != 0 => {
                    let destination = FLOATING[usize::from(family == 6)].parse().expect("an address");
                    Shot { to: 0, destination, ..own }
                }
                Twist::Translated(port) if from != parties - 1 && from != usize::from(port - 30080) => {
                    let to = usize::from(port - 30080);
                    let content = Content::Tcp { port, flags: SYN };
                    Shot {
                        to,
                        destination: address(parties - 1),
                        source_port: None,
                        content,
                        manner: Manner::Converse,
                        ..own
                    }
                }
                // What comes back to the host looks like what arrived there.
                Twist::Published if from != parties - 1 || own.manner == Manner::Converse => {
                    Shot { to: parties - 1, destination: address(parties - 1), ..own }
                }
                _ => own,
            }
        },
    )
}
