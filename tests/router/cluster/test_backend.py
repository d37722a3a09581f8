"""Where a version's requests go, by the kinds of its resources."""

from __future__ import annotations

import pytest

from router.cluster.backend import ModelMesh, Server, server
from router.cluster.resource import Reference
from router.cluster.seldon import predictors
from router.problem import Problem
from xds.ir import Protocol

NS = "prod"


def ref(written):
    short, name = written.split("/")
    name, _, inside = name.partition("#")
    return Reference(short, name, NS, inside)


def of(*written, infer=False, **objects):
    """`objects` by short_name with underscores for dashes."""
    known = {key.replace("_", "-"): value for key, value in objects.items()}
    resources = tuple(ref(one) for one in written)
    return server(resources, lambda one: known.get(f"{one.short}-{one.name}"), infer=infer)


def service(*ports, **spec):
    return {"spec": {"ports": [dict(port) for port in ports], **spec}}


def isvc(mode=None, status=None, **model):
    annotations = {} if mode is None else {"serving.kserve.io/deploymentMode": mode}
    return {"metadata": {"annotations": annotations}, "spec": {"predictor": {"model": model}}, "status": status or {}}


@pytest.mark.parametrize(
    ("ports", "port", "protocol"),
    [
        ([{"port": 8080}], 8080, Protocol.AUTO),
        ([{"port": 80, "name": "http"}], 80, Protocol.HTTP1),
        ([{"port": 81, "name": "grpc-infer"}], 81, Protocol.H2C),
        ([{"port": 82, "appProtocol": "kubernetes.io/h2c"}], 82, Protocol.H2C),
        ([{"port": 90, "name": "metrics"}, {"port": 80, "name": "http"}], 80, Protocol.HTTP1),
        ([{"port": 53, "protocol": "UDP"}, {"port": 54}], 54, Protocol.AUTO),
    ],
)
def test_a_service_and_its_port(ports, port, protocol):
    found = of("deploy/iris", "svc/iris", svc_iris=service(*ports))
    assert found == Server(service="iris", namespace=NS, port=port, protocol=protocol)
    assert found.manifest == {"service": {"name": "iris", "namespace": NS, "port": port}}


def test_a_deployment_is_reached_by_the_service_of_its_name():
    assert of("deploy/iris", svc_iris=service({"port": 80})).service == "iris"
    lost = of("deploy/iris")
    assert str(lost) == (
        "deploy/prod/iris: has no Service prod/iris in front (create Service iris, or list the one that leads there)"
    )


def test_a_statefulset_is_reached_by_its_governing_service():
    assert of("sts/db", sts_db={"spec": {"serviceName": "pods"}}, svc_pods=service({"port": 80})).service == "pods"


def test_an_external_name_is_resolved_by_dns_under_its_own_host():
    found = of("svc/out", svc_out=service({"port": 443}, type="ExternalName", externalName="Models.example.com."))
    assert found == Server(host="models.example.com", port=443, dns=True, host_rewrite="models.example.com")
    assert found.manifest == {"service": {"host": "models.example.com", "port": 443}}
    assert isinstance(of("svc/out", svc_out=service(type="ExternalName")), Problem)


def test_modelmesh_shares_one_server():
    found = of("cm/wisdom-0-weight-config", "isvc/wisdom-0", isvc_wisdom_0=isvc("ModelMesh"))
    assert found.address == "modelmesh-serving.modelmesh-serving.svc.cluster.local"
    assert (found.port, found.protocol, found.shared) == (8033, Protocol.H2C, True)
    assert found.manifest == {
        "shared": {
            "service": {"name": "modelmesh-serving", "namespace": "modelmesh-serving", "port": 8033},
            "requestHeaders": {"mm-vmodel-id": "wisdom-0"},
        }
    }


@pytest.mark.parametrize(
    ("url", "address", "port"),
    [
        ("grpc://mesh.models:9000", "mesh.models.svc.cluster.local", 9000),
        ("grpc://mesh.models.svc.cluster.local", "mesh.models.svc.cluster.local", 8033),
        ("grpc://mesh.example.com:9000", "mesh.example.com", 9000),
        ("http://else.where:1", "modelmesh-serving.modelmesh-serving.svc.cluster.local", 8033),
        ("grpc://bad:port", "modelmesh-serving.modelmesh-serving.svc.cluster.local", 8033),
    ],
)
def test_modelmesh_tells_its_address_in_the_status(url, address, port):
    found = of("isvc/a", isvc_a=isvc("ModelMesh", {"url": url}))
    assert (found.address, found.port) == (address, port)


def test_modelmesh_may_be_configured():
    found = server([ref("isvc/a")], lambda one: isvc("ModelMesh"), modelmesh=ModelMesh("mm", "models", 9000))
    assert (found.address, found.port) == ("mm.models.svc.cluster.local", 9000)


def test_kserve_is_asked_by_the_predictors_host():
    found = of("isvc/iris", isvc_iris=isvc())
    host = "iris-predictor.prod.svc.cluster.local"
    assert found == Server(service="iris-predictor", namespace=NS, port=80, dns=True, host_rewrite=host)
    assert of("isvc/iris", isvc_iris=isvc("RawDeployment")).dns is False
    assert of("isvc/iris", isvc_iris=isvc(), infer=True).path_rewrite == "/v2/models/iris/infer"


def test_older_kserve_called_the_predictor_otherwise():
    status = {"components": {"predictor": {"url": "http://iris-predictor-default.prod.example.com"}}}
    assert of("isvc/iris", isvc_iris=isvc(status=status)).service == "iris-predictor-default"


@pytest.mark.parametrize("model", [{"ports": [{"name": "h2c"}]}, {"protocolVersion": "grpc-v2"}])
def test_kserve_may_speak_grpc(model):
    assert of("isvc/iris", isvc_iris=isvc(**model)).protocol is Protocol.H2C


SELDON = {
    "metadata": {"name": "iris", "namespace": NS},
    "spec": {"predictors": [{"name": "baseline", "traffic": 100}, {"name": "candidate", "traffic": 0}]},
}


def test_each_predictor_of_seldon_has_a_service():
    found = of("sdep/iris#candidate", sdep_iris=SELDON)
    assert found == Server(service="iris-candidate", namespace=NS, port=8000)
    grpc = {**SELDON, "spec": {**SELDON["spec"], "transport": "grpc"}}
    assert of("sdep/iris#baseline", sdep_iris=grpc).port == 5001
    assert (
        of("sdep/iris#oops", sdep_iris=SELDON).what == "no predictor is called 'oops' (there are: baseline, candidate)"
    )
    assert of("sdep/iris", sdep_iris=SELDON).what == "has 2 predictors (there are: baseline, candidate)"


def test_seldons_predictors_are_versions():
    assert [(one.name, one.traffic, one.shadow) for one in predictors(SELDON)] == [
        ("baseline", 100, False),
        ("candidate", 0, False),
    ]
    lone = {"metadata": {"name": "a"}, "spec": {"predictors": [{"name": "p"}]}}
    assert predictors(lone)[0].traffic == 100
    shadow = {
        "metadata": {"name": "a"},
        "spec": {"predictors": [{"name": "p"}, {"name": "q", "shadow": True, "traffic": 10}]},
    }
    assert [(one.traffic, one.shadow) for one in predictors(shadow)] == [(0, False), (10, True)]


def test_a_version_that_cannot_be_reached_is_told():
    assert of("cm/settings").what == "no resource of the version can receive requests"
    assert of("isvc/gone").what == "does not exist"


def test_what_serves_is_found_whatever_the_order():
    found = of("deploy/back", "svc/front", svc_front=service({"port": 80}), svc_back=service({"port": 81}))
    assert found.service == "front"
    assert of("svc/front", "isvc/a", svc_front=service({"port": 80}), isvc_a=isvc("ModelMesh")).shared
