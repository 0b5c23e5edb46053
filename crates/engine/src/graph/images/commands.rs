//! Commands that run over everything else of an image.

use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::stack;

use super::{Builder, Draft};
use crate::error::Result;
use crate::node::NodeId;
use crate::settings::Settings;
use crate::step::Subject;
use crate::steps::foundation::Foundation;
use crate::steps::run::{Place, Run};

impl Builder<'_> {
    /// Adds a layer for each command. Each runs over those of all before it.
    pub(super) fn commands(
        &mut self,
        image: &stack::Image,
        settings: &Settings,
        draft: &mut Draft,
    ) -> Result<Vec<NodeId>> {
        let mut commands = Vec::new();
        if image.run.is_empty() {
            return Ok(commands);
        }
        let subject = Subject::Image(image.name.clone(), draft.platform);
        let foundation = draft.ground.image.map(|below| self.graph.add(Foundation::new(below, subject))).transpose()?;
        for (below, run) in image.run.iter().enumerate() {
            let accounts = &draft.ground.accounts;
            let (user, groups, home) = match &run.user {
                Some((text, span)) => {
                    accounts.require(text, span.clone())?;
                    let (groups, home) = accounts.further(text);
                    let ids = accounts.ids(text).ok_or_else(|| {
                        let message = format!("the ids of `{text}` are not known: the base does not tell its users");
                        Diagnostics::from(
                            Diagnostic::at(span.clone(), message).hint("give ids: `user = \"1000:1000\"`"),
                        )
                    })?;
                    (ids, groups, home)
                }
                None => ((0, 0), Vec::new(), "/root".to_owned()),
            };
            let place = Place {
                settings,
                user: (user.0, user.1, groups),
                home,
                below,
                platform: draft.platform,
                foundation,
                layers: draft.layers.iter().map(|layer| layer.node).collect(),
                compression: image.compression,
            };
            let step = Run::new(run, place);
            let history = step.history();
            let node = self.graph.add(step)?;
            commands.push(node.id());
            draft.layer(node, history, 0);
        }
        Ok(commands)
    }
}
