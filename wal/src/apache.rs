//! Logs of Apache ZooKeeper.
