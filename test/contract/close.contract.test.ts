import { closeSuite } from './close.ts'
import { onEveryEngine } from './harness.ts'

onEveryEngine({ close: closeSuite })
