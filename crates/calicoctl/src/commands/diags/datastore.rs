//! What the datastore holds below `/calico/`.

use calico_store::Entry;
use serde_json::{Value, json};

use super::Item;
use crate::{context::Context, failure::Failure};

/// Everything of ours.
const ROOT: &str = "/calico/";
/// Bytes of all values.
const MOST: usize = 32 << 20;

/// Every key with its value. What is not JSON is of nobody who follows the layout: only its size is told.
pub(super) async fn dump(ctx: &Context) -> Vec<Item> {
    let listing = match ctx.store.kv().list(ROOT).await {
        Ok(listing) => listing,
        Err(error) => return vec![Item::missing("datastore.json", Failure::from(error).one_line())],
    };
    let (mut room, mut left_out) = (MOST, 0_usize);
    let mut entries = Vec::new();
    for entry in &listing.entries {
        match room.checked_sub(entry.value.len()) {
            Some(rest) => room = rest,
            None => {
                left_out += 1;
                continue;
            }
        }
        entries.push(shown(entry));
    }
    let fault = (left_out > 0).then(|| format!("{left_out} keys are left out for want of room"));
    let data = json!({
        "location": ctx.store.kv().location(),
        "revision": listing.revision.0,
        "entries": entries,
    });
    vec![Item::data("datastore.json", data).but(fault)]
}

fn shown(entry: &Entry) -> Value {
    let value = match serde_json::from_slice::<Value>(&entry.value) {
        // A bare text may be anything.
        Ok(Value::String(text)) => Value::from(format!("<a text of {} bytes>", text.len())),
        Ok(value) => value,
        Err(_) => Value::from(format!("<{} bytes that are no JSON>", entry.value.len())),
    };
    json!({ "key": entry.key, "revision": entry.revision.0, "value": value })
}
