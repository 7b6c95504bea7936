import { onEveryEngine } from './harness.ts'
import { runSuite } from './run.ts'

onEveryEngine({ run: runSuite })
