from tests.hub.fixtures import hub, hub_client, hub_environment, no_waiting  # noqa: F401
