{{/* The rights, least first. docs/install.md says what each is for; tests/deploy holds them against the kinds we watch. */}}

{{- define "headgate.watched" -}}
- apiGroups: [headgate.dev]
  resources: [modelrollouts]
  verbs: [get, list, watch]
- apiGroups: [headgate.dev]
  resources: [modelrollouts/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# patch: the finalizer headgate.dev/drain, on what a rollout's versions name. get: to see who wrote first.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, patch]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, patch]
- apiGroups: [serving.kserve.io]
  resources: [inferenceservices]
  verbs: [get, list, watch, patch]
- apiGroups: [machinelearning.seldon.io]
  resources: [seldondeployments]
  verbs: [get, list, watch, patch]
{{- range $short, $type := .Values.kubernetes.resourceTypes }}
- apiGroups: [{{ coalesce $type.group $type.Group "" | quote }}]
  resources: [{{ coalesce $type.resource $type.Resource | required (printf "kubernetes.resourceTypes.%s.resource is missing" $short) }}]
  verbs: [get, list, watch, patch]
{{- end }}
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* In the control plane's own namespace: who leads, and which replicas there are. */}}
{{- define "headgate.leases" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, update, patch, delete]
{{- end -}}

{{- define "headgate.release" -}}
- apiGroups: [headgate.dev]
  resources: [modelrollouts]
  verbs: [get, list]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, patch]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, patch]
- apiGroups: [serving.kserve.io]
  resources: [inferenceservices]
  verbs: [get, list, patch]
- apiGroups: [machinelearning.seldon.io]
  resources: [seldondeployments]
  verbs: [get, list, patch]
{{- range .Values.kubernetes.resourceTypes }}
- apiGroups: [{{ coalesce .group .Group "" | quote }}]
  resources: [{{ coalesce .resource .Resource }}]
  verbs: [get, list, patch]
{{- end }}
{{- end -}}

{{- define "headgate.view" -}}
- apiGroups: [headgate.dev]
  resources: [modelrollouts, modelrollouts/status]
  verbs: [get, list, watch]
{{- end -}}

{{- define "headgate.edit" -}}
- apiGroups: [headgate.dev]
  resources: [modelrollouts]
  verbs: [create, update, patch, delete, deletecollection]
{{- end -}}
