import { onEveryEngine } from './harness.ts'
import { leftBehindSuite } from './left-behind.ts'

onEveryEngine({ 'what is left behind': leftBehindSuite })
