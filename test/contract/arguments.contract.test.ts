import { argumentsSuite } from './arguments.ts'
import { onEveryEngine } from './harness.ts'

onEveryEngine({ arguments: argumentsSuite })
