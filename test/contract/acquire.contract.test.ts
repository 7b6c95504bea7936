import { acquireSuite } from './acquire.ts'
import { onEveryEngine } from './harness.ts'

onEveryEngine({ acquire: acquireSuite })
