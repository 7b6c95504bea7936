import { electionSuite } from './election.ts'
import { onEveryEngine } from './harness.ts'

onEveryEngine({ election: electionSuite })
