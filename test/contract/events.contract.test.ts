import { eventsSuite } from './events.ts'
import { onEveryEngine } from './harness.ts'

onEveryEngine({ events: eventsSuite })
