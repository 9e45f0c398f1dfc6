def test_a_server_has_its_manager_before_it_runs() -> None:
    import asyncio

    from ms_enclave.sandbox.server import create_server

    server = create_server(cleanup_interval=300)
    try:
        assert asyncio.run(server.manager.list_sandboxes()) == []
        assert asyncio.run(server.manager.get_stats())['total_sandboxes'] == 0
    finally:
        server.stop()
