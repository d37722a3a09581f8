{{/* Names, labels and the parts that several objects share. */}}

{{- define "headgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "headgate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "headgate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "headgate.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Objects of the cluster carry the release's namespace, so that two releases of one name do not meet. */}}
{{- define "headgate.clusterName" -}}
{{- if eq .Release.Namespace (include "headgate.fullname" .) -}}
{{- include "headgate.fullname" . -}}
{{- else -}}
{{- printf "%s-%s" (include "headgate.fullname" .) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{- define "headgate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "headgate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is required when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "headgate.watchNamespace" -}}
{{- if eq .Values.scope "namespaced" -}}
{{- default .Release.Namespace .Values.watchNamespace -}}
{{- end -}}
{{- end -}}

{{- define "headgate.selector" -}}
app.kubernetes.io/name: {{ include "headgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* (list . "component") */}}
{{- define "headgate.labels" -}}
{{- $root := index . 0 -}}
{{ include "headgate.selector" $root }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/part-of: headgate
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* (list . "component") */}}
{{- define "headgate.selectorOf" -}}
{{ include "headgate.selector" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "headgate.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest }}
{{- else -}}
{{ printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "headgate.envoyImage" -}}
{{- with .Values.gateway.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest }}
{{- else -}}
{{ printf "%s:%s" .repository .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "headgate.sidecarImage" -}}
{{- include "headgate.ownImage" (list . .Values.gateway.sidecar.image) -}}
{{- end -}}

{{/* An image beside Envoy: the control plane's, but for what `own` says. Takes the root and `own`. */}}
{{- define "headgate.ownImage" -}}
{{- $own := index . 1 -}}
{{- with index . 0 -}}
{{- $repository := default .Values.image.repository $own.repository -}}
{{- $digest := $own.digest -}}
{{- if not (or $own.digest $own.repository $own.tag) -}}{{- $digest = .Values.image.digest -}}{{- end -}}
{{- if $digest -}}
{{ printf "%s@%s" $repository $digest }}
{{- else -}}
{{ printf "%s:%s" $repository (coalesce $own.tag .Values.image.tag .Chart.AppVersion) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "headgate.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* (list . "component" constraints) */}}
{{- define "headgate.spread" -}}
{{- if index . 2 -}}
{{- toYaml (index . 2) -}}
{{- else -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "headgate.selectorOf" . | nindent 6 }}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "headgate.selectorOf" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{- define "headgate.serverSecret" -}}
{{- if eq .Values.tls.mode "secret" -}}
{{- required "tls.secret.server is required with tls.mode secret" .Values.tls.secret.server -}}
{{- else -}}
{{- printf "%s-xds-server" (include "headgate.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "headgate.clientSecret" -}}
{{- if eq .Values.tls.mode "secret" -}}
{{- required "tls.secret.client is required with tls.mode secret" .Values.tls.secret.client -}}
{{- else -}}
{{- printf "%s-xds-client" (include "headgate.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* "yes" when Envoys tell the sidecar of single requests. */}}
{{- define "headgate.streams" -}}
{{- if and .Values.gateway.sidecar.enabled .Values.gateway.sidecar.stream.enabled -}}yes{{- end -}}
{{- end -}}

{{/* headgate.yaml: what the values say, and `config` over it. */}}
{{- define "headgate.config" -}}
{{- $xds := dict "address" "0.0.0.0" "port" 18000 -}}
{{- if ne .Values.tls.mode "none" -}}
{{- $tls := dict "certificate" "/etc/headgate-tls/xds/tls.crt" "key" "/etc/headgate-tls/xds/tls.key" "clientCA" "/etc/headgate-tls/xds/ca.crt" -}}
{{- if .Values.tls.checkNode -}}{{- $_ := set $tls "checkNode" true -}}{{- end -}}
{{- $_ := set $xds "tls" $tls -}}
{{- end -}}
{{- $kubernetes := dict "enabled" true "leaseName" (include "headgate.fullname" .) "modelmesh" .Values.kubernetes.modelmesh -}}
{{- with include "headgate.watchNamespace" . -}}{{- $_ := set $kubernetes "namespace" . -}}{{- end -}}
{{- with .Values.kubernetes.resourceTypes -}}{{- $_ := set $kubernetes "resourceTypes" . -}}{{- end -}}
{{- $made := dict "xds" $xds "http" (dict "address" "0.0.0.0" "port" 18001) "kubernetes" $kubernetes "log" .Values.log -}}
{{- if .Values.gateway.enabled -}}
{{- $listeners := list -}}
{{- range .Values.gateway.listeners -}}
{{- $listener := dict "name" .name "address" "0.0.0.0" "port" .port -}}
{{- if .tlsSecret -}}
{{- $at := printf "/etc/headgate-tls/listeners/%s" .name -}}
{{- $tls := dict "certificate" (printf "%s/tls.crt" $at) "key" (printf "%s/tls.key" $at) -}}
{{- if .clientCA -}}{{- $_ := set $tls "clientCA" (printf "%s/ca.crt" $at) -}}{{- end -}}
{{- $_ := set $listener "tls" $tls -}}
{{- end -}}
{{- $listeners = append $listeners $listener -}}
{{- end -}}
{{- $gateway := dict "name" .Values.gateway.name "onDemandAbove" (int .Values.gateway.onDemandAbove) "listeners" $listeners -}}
{{- if not .Values.gateway.countCopies -}}{{- $_ := set $gateway "countCopies" false -}}{{- end -}}
{{- if include "headgate.streams" . -}}
{{- $stream := dict "enabled" true -}}
{{- with .Values.gateway.sidecar.stream.clientHeader -}}{{- $_ := set $stream "clientHeader" . -}}{{- end -}}
{{- with .Values.gateway.sidecar.stream.labels -}}{{- $_ := set $stream "labels" . -}}{{- end -}}
{{- $_ := set $gateway "streamRequests" $stream -}}
{{- end -}}
{{- with .Values.gateway.plugins -}}
{{- if .enabled -}}
{{- $chain := list -}}
{{- range .chain -}}{{- $chain = append $chain (omit . "plugin" "budget" "memory") -}}{{- end -}}
{{- $_ := set $gateway "plugins" (dict "host" "ext-proc" "timeout" .timeout "chain" $chain) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $made "gateways" (list $gateway) -}}
{{- if .Values.gateway.sidecar.enabled -}}
{{- $sidecars := printf "http://%s-gateway-sidecars:%d" (include "headgate.fullname" .) (int .Values.gateway.sidecar.port) -}}
{{- $_ := set $made "telemetry" (dict "sidecars" (list $sidecars)) -}}
{{- end -}}
{{- end -}}
{{- toYaml (mergeOverwrite $made (deepCopy .Values.config)) -}}
{{- end -}}

{{/* What `headgate plugin serve` beside each Envoy loads. */}}
{{- define "headgate.plugins" -}}
{{- $chain := list -}}
{{- range .Values.gateway.plugins.chain -}}{{- $chain = append $chain (omit . "models" "at") -}}{{- end -}}
{{- toYaml (dict "folder" "/etc/headgate/plugins" "plugins" $chain) -}}
{{- end -}}

{{/*
What `headgate bootstrap` prints, with this release's names. files/ is written by the tests from xds/bootstrap.py; node.id
is overridden by each Envoy's --service-node.
*/}}
{{- define "headgate.bootstrap" -}}
{{- $tls := ternary "" "-tls" (eq .Values.tls.mode "none") -}}
{{- $stream := ternary "-stream" "" (eq (include "headgate.streams" .) "yes") -}}
{{- $file := printf "files/bootstrap%s%s.yaml" $tls $stream -}}
{{- .Files.Get $file | replace "XDS_SERVICE" (include "headgate.fullname" .) | replace "GATEWAY_NAME" .Values.gateway.name | replace "port_value: 18000" (printf "port_value: %d" (int .Values.service.xdsPort)) | replace "port_value: 18003" (printf "port_value: %d" (int .Values.gateway.sidecar.stream.port)) -}}
{{- end -}}

{{- define "headgate.checks" -}}
{{- if and .Values.tls.checkNode (eq .Values.tls.mode "none") -}}
{{- fail "tls.checkNode needs tls.mode secret or certManager" -}}
{{- end -}}
{{- if and .Values.watchNamespace (ne .Values.scope "namespaced") -}}
{{- fail "watchNamespace needs scope namespaced; with scope cluster all namespaces are watched" -}}
{{- end -}}
{{- if and .Values.gateway.enabled .Values.gateway.sidecar.enabled -}}
{{- range .Values.gateway.listeners -}}
{{- if or (eq .name "sidecar") (eq (int .port) (int $.Values.gateway.sidecar.port)) -}}
{{- fail (printf "listener %s takes the sidecar's name or port: change it, or gateway.sidecar.port" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.gateway.enabled .Values.gateway.plugins.enabled (not .Values.gateway.plugins.chain) -}}
{{- fail "gateway.plugins.enabled needs gateway.plugins.chain: [{name: ..., plugin: module:Class}]" -}}
{{- end -}}
{{- if and .Values.gateway.drain (gt (int .Values.gateway.drain.seconds) 3600) -}}
{{- fail "gateway.drain.seconds is more than an hour" -}}
{{- end -}}
{{- end -}}
