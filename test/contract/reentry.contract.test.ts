import { onEveryEngine } from './harness.ts'
import { reentrySuite } from './reentry.ts'

onEveryEngine({ reentry: reentrySuite })
