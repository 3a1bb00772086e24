"""Diagnosis of an integration: gathers evidence, and lets rules judge it, which return findings."""

from services.user_management.services.diagnosis_service.gathering import EvidenceGatherer
from services.user_management.services.diagnosis_service.overview import judge
from services.user_management.services.diagnosis_service.service import DiagnosisService

__all__ = ["DiagnosisService", "EvidenceGatherer", "judge"]
