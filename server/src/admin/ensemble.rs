//! What a member of an ensemble says of itself and of the others.

use super::json::Json;
use crate::core::Core;
use crate::fourletter::mode;
use crate::json;
use config::{Ensemble, HostPort, Member, Membership, Role};
use node::Service;

fn ensemble(core: &Core) -> Option<&Ensemble> {
    match &core.settings.membership {
        Membership::Standalone => None,
        Membership::Ensemble(e) => Some(e),
    }
}

fn is_leader(core: &Core) -> bool {
    core.service() == Some(Service::Leading)
}

/// The command `leader`.
pub fn leader(core: &Core, out: &mut Json) {
    let Some(e) = ensemble(core) else { return out.put("error", "server is not initialized") };
    let leader = core.with_node(|n| n.zab().leader());
    out.put("is_leader", is_leader(core));
    out.put("leader_id", leader.map_or(-1, |id| id.0));
    let address = leader.and_then(|id| e.members.get(&id)).map(|m| m.addresses[0].host.to_string());
    out.put("leader_ip", address.unwrap_or_default());
}

/// The command `voting_view`.
pub fn voting_view(core: &Core, out: &mut Json) {
    let views = ensemble(core).into_iter().flat_map(|e| e.voters().map(|m| (m.id.0.to_string(), view(m))));
    out.put("current_config", Json::Map(views.collect()));
}

fn view(m: &Member) -> Json {
    let list = |port: fn(&config::PeerAddress) -> u16| {
        m.addresses.iter().map(|a| format!("{}:{}", a.host, port(a))).collect::<Vec<_>>()
    };
    json!({
        "server_addresses": list(|a| a.quorum_port),
        "election_addresses": list(|a| a.election_port),
        "client_address": m.client.as_ref().map_or(String::new(), ToString::to_string),
        "learner_type": if m.role == Role::Participant { "participant" } else { "observer" },
    })
}

/// The command `zabstate`.
pub fn zab_state(core: Option<&Core>, out: &mut Json) {
    let Some((core, e)) = core.and_then(|c| Some((c, ensemble(c)?))) else {
        out.put("voting", false);
        out.put("zabstate", "");
        return;
    };
    let me = e.me();
    let zxid = core.tree.applied();
    let address = |host: String, port: u16| json!({ "host": host, "port": u32::from(port) });
    let first = &me.addresses[0];
    out.put("myid", e.my_id.0);
    out.put("is_leader", is_leader(core));
    out.put("quorum_address", address(first.host.to_string(), first.quorum_port));
    out.put("election_address", address(first.host.to_string(), first.election_port));
    let client: Option<&HostPort> = me.client.as_ref().or(core.settings.client.listen.as_ref());
    out.put("client_address", client.map(|c| address(c.host.to_string(), c.port)));
    out.put("voting", e.role == Role::Participant);
    out.put("last_zxid", format!("{:#x}", zxid.as_u64()));
    out.put("zab_epoch", zxid.as_u64() >> 32);
    out.put("zab_counter", zxid.as_u64() & 0xffff_ffff);
    out.put("zabstate", if core.is_serving() { "broadcast" } else { "election" });
}

/// The members as the page shows them: all that this server knows.
pub fn members(core: &Core) -> Json {
    let zxid = format!("{:#x}", core.tree.applied().as_u64());
    let Some(e) = ensemble(core) else {
        let id = core.settings.my_id.map_or(0, |id| id.0);
        return vec![json!({ "id": id, "role": "standalone", "zxid": zxid, "here": true, "ok": true })]
            .into();
    };
    let (leader, learners) = core.with_node(|n| (n.zab().leader(), n.zab().learners()));
    let rows = e.members.values().map(|m| {
        let here = m.id == e.my_id;
        let learner = learners.iter().find(|(id, ..)| *id == Some(m.id));
        let (role, ok) = match (here, learner) {
            (true, _) => (mode(core).to_owned(), core.is_serving()),
            _ if leader == Some(m.id) => ("leader".to_owned(), true),
            (false, Some((_, _, synced))) => {
                (format!("{}{}", m.role, if *synced { "" } else { ", synchronising" }), *synced)
            }
            // Only a leader hears of the others.
            (false, None) if is_leader(core) => (format!("{}, not connected", m.role), false),
            (false, None) => (m.role.to_string(), true),
        };
        let first = &m.addresses[0];
        json!({
            "id": m.id.0,
            "role": role,
            "ok": ok,
            "address": format!("{}:{}", first.host, first.quorum_port),
            "zxid": if here { zxid.clone() } else { String::new() },
            "here": here,
        })
    });
    rows.collect::<Vec<_>>().into()
}
