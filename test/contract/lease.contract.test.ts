import { onEveryEngine } from './harness.ts'
import { leaseSuite } from './lease.ts'

onEveryEngine({ lease: leaseSuite })
