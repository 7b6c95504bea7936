import { onEveryEngine } from './harness.ts'
import { jobsSuite } from './jobs.ts'

onEveryEngine({ jobs: jobsSuite })
