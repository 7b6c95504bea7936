import { guardSuite } from './guard.ts'
import { onEveryEngine } from './harness.ts'

onEveryEngine({ guard: guardSuite })
