"""Diagnosis: evidence, rules, findings."""

from services.user_management.services.diagnosis_service.gathering import EvidenceGatherer
from services.user_management.services.diagnosis_service.overview import judge
from services.user_management.services.diagnosis_service.service import DiagnosisService

__all__ = ["DiagnosisService", "EvidenceGatherer", "judge"]
