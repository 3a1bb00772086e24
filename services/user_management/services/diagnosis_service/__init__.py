"""Diagnosis of an integration, a user's linked account: gathers evidence, and applies rules to it, each of which looks
for one cause of trouble and returns a finding or None."""

from services.user_management.services.diagnosis_service.gathering import EvidenceGatherer
from services.user_management.services.diagnosis_service.overview import judge
from services.user_management.services.diagnosis_service.service import DiagnosisService

__all__ = ["DiagnosisService", "EvidenceGatherer", "judge"]
