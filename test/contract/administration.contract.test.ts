import { administrationSuite } from './administration.ts'
import { onEveryEngine } from './harness.ts'

onEveryEngine({ administration: administrationSuite })
