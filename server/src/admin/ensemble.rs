//! What a member of an ensemble says of itself and of the others.

use super::json::Json;
use crate::core::Core;
use crate::fourletter::mode;
use crate::json;
use crate::peers::link::Link;
use config::{Ensemble, HostPort, Member, Membership, Role};
use node::Service;
use proto::ServerId;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

fn ensemble(core: &Core) -> Option<&Ensemble> {
    match &core.settings.membership {
        Membership::Standalone => None,
        Membership::Ensemble(e) => Some(e),
    }
}

/// The ensemble that this server takes part in now: to these commands a read-only server is one that stands alone, as Apache's.
fn taking_part(core: &Core) -> Option<&Ensemble> {
    ensemble(core).filter(|_| !core.is_read_only())
}

fn is_leader(core: &Core) -> bool {
    core.service() == Some(Service::Leading)
}

/// The command `leader`.
pub fn leader(core: &Core, out: &mut Json) {
    let Some(e) = taking_part(core) else { return out.put("error", "server is not initialized") };
    let leader = core.with_node(|n| n.zab().leader());
    out.put("is_leader", is_leader(core));
    out.put("leader_id", leader.map_or(-1, |id| id.0));
    let address = leader.and_then(|id| e.members.get(&id)).map(|m| m.addresses[0].host.to_string());
    out.put("leader_ip", address.unwrap_or_default());
}

/// The command `voting_view`.
pub fn voting_view(core: &Core, out: &mut Json) {
    let voters = taking_part(core).into_iter().flat_map(Ensemble::voters);
    let views = voters.map(|m| (m.id.0.to_string(), view(m)));
    out.put("current_config", Json::Map(views.collect()));
}

/// The links of the observers of this leader, with their ids.
fn observer_links(core: &Core) -> Vec<(ServerId, Arc<Link>)> {
    let Some((e, peers)) = ensemble(core).zip(core.peers()).filter(|_| is_leader(core)) else {
        return Vec::new();
    };
    let observes = |id: &ServerId| e.members.get(id).is_none_or(|m| m.role == Role::Observer);
    let links = peers.links().into_iter().filter(|link| !link.is_cut());
    links.filter_map(|link| Some((link.learner.get().copied().filter(observes)?, link))).collect()
}

/// The command `observers`.
pub fn observers(core: &Core, out: &mut Json) {
    let learners = core.with_node(|n| n.zab().learners());
    let synced = learners.iter().filter(|(_, observes, synced)| *observes && *synced).count();
    let rows = observer_links(core).into_iter().map(|(id, link)| {
        json!({
            "remote_socket_address": link.peer.to_string(),
            "sid": id.0,
            "established": link.established.0,
            "queued_packets": link.packets(),
            // A part of a snapshot counts too.
            "queued_packets_size": link.unsent(),
            "packets_received": link.counts.received.load(Relaxed),
            "packets_sent": link.counts.sent.load(Relaxed),
            "requests": link.counts.requests.load(Relaxed),
            "last_zxid": format!("{:#x}", link.counts.last.load(Relaxed)),
        })
    });
    let rows: Vec<Json> = rows.collect();
    out.put("synced_observers", synced);
    out.put("observers", rows);
}

/// The command `observer_connection_stat_reset`.
pub fn reset_observers(core: &Core) {
    observer_links(core).iter().for_each(|(_, link)| link.counts.reset());
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
    let Some((core, e)) = core.and_then(|c| Some((c, taking_part(c)?))) else {
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
            (true, _) => (mode(core).to_owned(), core.unready().is_none()),
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
