from tests.hub.fixtures import hub, hub_client, hub_environment, no_waiting

__all__ = ["hub", "hub_client", "hub_environment", "no_waiting"]
