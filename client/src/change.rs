//! Changes of the intent through a handle. None of them waits: the session converges by itself.

use std::net::IpAddr;

use super::error::{MaintenanceError, RouteError, Stopped};
use super::event::Event;
use super::handle::Client;
use super::intent::{
    MaintenanceAction, MaintenanceRequest, MaintenanceTarget, Route, RouteKey, Routes, Visibility,
};
use crate::protocol::{BackendUrl, Metadata};

/// Each change is atomic between the clones of a handle, takes effect as soon as there is a session, and returns at
/// once.
impl Client {
    /// The routes that are wanted.
    pub fn routes(&self) -> Routes {
        self.goal().routes.clone()
    }

    /// Wants these routes from now on and no others.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn set_routes(&self, routes: Routes) -> Result<(), Stopped> {
        self.modify_routes(|wanted| *wanted = routes)
    }

    /// Changes the wanted routes, all changes at once: the registry never sees a part of them.
    ///
    /// `change` runs under the lock of the intent. It must not call this client or a clone of it.
    ///
    /// # Errors
    /// [`Stopped`]; `change` was not called.
    pub fn modify_routes<T>(&self, change: impl FnOnce(&mut Routes) -> T) -> Result<T, Stopped> {
        self.alter(|goal| Ok(change(&mut goal.routes)))
    }

    /// Wants one more route.
    ///
    /// # Errors
    /// [`RouteError::Exists`], [`RouteError::Stopped`]
    pub fn add_route(&self, key: impl Into<RouteKey>, route: Route) -> Result<(), RouteError> {
        let key = key.into();
        self.alter(|goal| match goal.routes.contains_key(&key) {
            true => Err(RouteError::Exists(key)),
            false => {
                goal.routes.insert(key, route);
                Ok(())
            }
        })
    }

    /// Wants another route under this key. Where the registry is this project's own there is no moment without one
    /// ([SEMANTICS section 8](crate::spec::semantics#8-bounds)).
    ///
    /// # Errors
    /// [`RouteError::Unknown`], [`RouteError::Stopped`]
    pub fn update_route(&self, key: impl Into<RouteKey>, route: Route) -> Result<(), RouteError> {
        self.modify_route(key, |wanted| *wanted = route)
    }

    /// Changes the route of this key as it is wanted at this moment, so that of two clones that change one setting
    /// each neither undoes the other's.
    ///
    /// `change` runs under the lock of the intent. It must not call this client or a clone of it.
    ///
    /// # Errors
    /// [`RouteError::Unknown`], [`RouteError::Stopped`]; `change` was not called.
    pub fn modify_route<T>(
        &self,
        key: impl Into<RouteKey>,
        change: impl FnOnce(&mut Route) -> T,
    ) -> Result<T, RouteError> {
        let key = key.into();
        self.alter(|goal| match goal.routes.get_mut(&key) {
            None => Err(RouteError::Unknown(key)),
            Some(route) => Ok(change(route)),
        })
    }

    /// Wants the route of this key no longer.
    ///
    /// # Errors
    /// [`RouteError::Unknown`], [`RouteError::Stopped`]
    pub fn remove_route(&self, key: impl Into<RouteKey>) -> Result<(), RouteError> {
        let key = key.into();
        self.alter(|goal| match goal.routes.remove(&key) {
            None => Err(RouteError::Unknown(key)),
            Some(_) => Ok(()),
        })
    }

    /// Sets what people are to see of the routes.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn set_visibility(&self, visibility: Visibility) -> Result<(), Stopped> {
        self.alter(|goal| {
            goal.visibility = visibility;
            Ok(())
        })
    }

    /// Sets the URL of the maintenance page for [`Visibility::Maintenance`], as the proxy reaches it; `None`: the
    /// proxy's own page.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn set_maintenance_page(&self, page: Option<BackendUrl>) -> Result<(), Stopped> {
        self.alter(|goal| {
            goal.page = page;
            Ok(())
        })
    }

    /// The URL of the maintenance page as it is wanted now.
    pub fn maintenance_page(&self) -> Option<BackendUrl> {
        self.goal().page.clone()
    }

    /// Wants maintenance of `target`, in this session and every later one.
    ///
    /// `page` is the page's URL as the proxy reaches it; `None`: the proxy's own. Of several requests about a route
    /// the last counts; [`Visibility::Maintenance`] goes before all of them. The registry's answer comes as events
    /// ([PROTOCOL section 6](crate::spec::protocol#6-asynchronous-lines)), and [`Client::wait_maintenance`] waits for it.
    ///
    /// # Errors
    /// [`MaintenanceError::UnknownTarget`] where no wanted route is meant; [`MaintenanceTarget::All`] always is one.
    /// [`MaintenanceError::Stopped`].
    pub fn maintenance_enter(
        &self,
        target: MaintenanceTarget,
        page: Option<BackendUrl>,
    ) -> Result<(), MaintenanceError> {
        self.maintain(MaintenanceRequest { target, action: MaintenanceAction::Enter(page) })
    }

    /// Wants maintenance of `target` no longer; of [`MaintenanceTarget::All`]: of nothing.
    ///
    /// # Errors
    /// [`MaintenanceError::UnknownTarget`] where no wanted route is meant and the target is in no maintenance;
    /// [`MaintenanceError::Stopped`].
    pub fn maintenance_exit(&self, target: MaintenanceTarget) -> Result<(), MaintenanceError> {
        self.maintain(MaintenanceRequest { target, action: MaintenanceAction::Exit })
    }

    fn maintain(&self, request: MaintenanceRequest) -> Result<(), MaintenanceError> {
        self.alter(|goal| {
            if !goal.knows(&request) {
                return Err(MaintenanceError::UnknownTarget(request.target));
            }
            goal.request(request);
            Ok(())
        })
    }

    /// Sends these metadata with the next REGISTER: a token may have changed. The present session keeps its own.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn set_metadata(&self, metadata: Metadata) -> Result<(), Stopped> {
        self.alter(|goal| {
            goal.metadata = metadata;
            Ok(())
        })
    }

    /// Lets every route and every maintenance page that lead to the address `old` lead to `new`: the application has
    /// moved. Where the registry is this project's own there is no moment without a route ([SEMANTICS section 8](crate::spec::semantics#8-bounds)).
    ///
    /// Returns whether there was one; only then it tells [`Event::IpChanged`].
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn change_address(&self, old: IpAddr, new: IpAddr) -> Result<bool, Stopped> {
        self.alter_if(|goal| {
            let has_moved = goal.change_address(old, new);
            if has_moved {
                self.announce(Event::IpChanged { old, new });
            }
            Ok((has_moved, has_moved))
        })
    }
}
