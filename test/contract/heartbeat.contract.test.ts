import { onEveryEngine } from './harness.ts'
import { heartbeatSuite } from './heartbeat.ts'

onEveryEngine({ heartbeat: heartbeatSuite })
