//! What was not used for longest goes first.

use oriel_dht::index::Fingerprint;

use super::Eviction;
use super::queues::Queues;

#[derive(Default)]
pub(super) struct Lru(Queues<1>);

impl Eviction for Lru {
    fn inserted(&mut self, blob: Fingerprint, blocks: u64) {
        self.0.remove(blob);
        self.0.push(0, blob, blocks);
    }

    fn accessed(&mut self, blob: Fingerprint) {
        self.0.bring_forward(0, blob);
    }

    fn removed(&mut self, blob: Fingerprint) {
        self.0.remove(blob);
    }

    fn victim(&mut self) -> Option<(Fingerprint, u64)> {
        self.0.oldest(0)
    }

    fn spare(&mut self, blob: Fingerprint) {
        self.0.bring_forward(0, blob);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::*;
    use proptest::prelude::*;

    fn blob(name: u8) -> Fingerprint {
        Fingerprint::from_bytes([name; 16])
    }

    proptest! {
        #[test]
        fn it_is_a_list_in_the_order_of_use(steps in prop::collection::vec((0..5, 0..20_u8), 0..300)) {
            let mut lru = Policy::Lru.begin();
            // The least recently used first.
            let mut model: Vec<u8> = Vec::new();
            for (step, name) in steps {
                let place = model.iter().position(|known| *known == name);
                match step {
                    0 => {
                        lru.inserted(blob(name), u64::from(name) + 1);
                        place.map(|place| model.remove(place));
                        model.push(name);
                    }
                    1 | 2 => {
                        if step == 1 { lru.accessed(blob(name)) } else { lru.spare(blob(name)) }
                        if let Some(place) = place {
                            model.remove(place);
                            model.push(name);
                        }
                    }
                    3 => {
                        lru.removed(blob(name));
                        place.map(|place| model.remove(place));
                    }
                    _ => {
                        let oldest = model.first().map(|name| (blob(*name), u64::from(*name) + 1));
                        prop_assert_eq!(lru.victim(), oldest);
                    }
                }
            }
        }
    }
}
