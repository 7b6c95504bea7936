import { onEveryEngine } from './harness.ts'
import { waitingSuite } from './waiting.ts'

onEveryEngine({ waiting: waitingSuite })
