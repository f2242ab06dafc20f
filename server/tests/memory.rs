//! Who serves shares the main heap. Without a harness, for heaps are told apart by the process's first thread.

use std::sync::mpsc::channel;

fn main() {
    server::memory::begin();
    if !server::memory::is_in_use() {
        println!("not with this C library: nothing to test");
        return;
    }
    // Heaps that others left behind, as a start's loaders do.
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                assert!(
                    !vfs::os::heap::is_on_main(),
                    "a thread gets a heap of its own while there may be more"
                )
            });
        }
    });
    let mut serving = server::memory::Serving::default();
    let (say, said) = channel();
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let say = say.clone();
            let run = move || say.send((n, vfs::os::heap::is_on_main())).unwrap();
            serving.spawn("serving", run).unwrap()
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let mut ran: Vec<_> = said.try_iter().collect();
    ran.sort_unstable();
    assert_eq!(ran, [(0, true), (1, true), (2, true), (3, true)]);
}
