import { onEveryEngine } from './harness.ts'
import { onceSuite } from './once.ts'

onEveryEngine({ once: onceSuite })
